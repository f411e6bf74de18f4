"""Random streams, and hashes of tensors, code and environment, which prove that runs are equal."""

from lossbench.fingerprints.code import forget, source_sha
from lossbench.fingerprints.environment import device_name, environment_json, environment_sha
from lossbench.fingerprints.streams import PURPOSES, stream
from lossbench.fingerprints.tensors import add_tensors, tensors_sha
