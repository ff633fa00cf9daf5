"""What of a network may go, and what it is worth: channels (`channel_groups`, judged by `importance`) and whole blocks
(`blocks`).
"""
