"""A bundle finished on a device over SSH: sent there, compiled, evaluated and measured, and brought back.

`address` parses what the user names, `connection` reaches it, `job` runs commands that outlive the connection,
`environment` prepares Python there, `evaluation` judges the outputs here, and `delivery` is the journey as a whole.
`remote_job` runs on the device alone.
"""
