"""Files: written whole, by one writer at a time, and read by one way in that proves them.

`schemas` declares each kind of file once, as a typed record with a version. What is written carries
a digest of its content, and `Kind.read` answers anything else than what was written with one
sentence: file, line, what is wrong, what to do.
"""

from keras_rram.files.arrays import check_zip, read_npz, read_sealed_npz, write_npz
from keras_rram.files.digests import array_sha256, content_sha256, is_sha256_of
from keras_rram.files.records import Kind, whole_lines
from keras_rram.files.writing import lock, one_writer, written_whole

__all__ = [
    "Kind",
    "array_sha256",
    "check_zip",
    "content_sha256",
    "is_sha256_of",
    "lock",
    "one_writer",
    "read_npz",
    "read_sealed_npz",
    "whole_lines",
    "write_npz",
    "written_whole",
]
