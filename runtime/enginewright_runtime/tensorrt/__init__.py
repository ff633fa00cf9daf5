"""TensorRT 8.6, 10, 11 and TensorRT-RTX, written once: what a version has is found by the names that it has.

The numbers behind its enumerations differ from version to version, so nothing here goes by a number.
"""
