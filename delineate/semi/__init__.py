"""Training with few labels and many unlabelled images: methods as tables of streams over shared parts.

>>> from delineate.semi import parse_method
>>> parse_method("dssn(agree_weight=0)").agree_weight
0
"""

from delineate.semi.dssn import DSSN
from delineate.semi.expression import METHODS, parse_method
from delineate.semi.fixmatch import FixMatch
from delineate.semi.mean_teacher import MeanTeacher
from delineate.semi.method import Method
from delineate.semi.network import Network
from delineate.semi.streams import At, Found, Stream, Unlabelled
from delineate.semi.supervised import Supervised
from delineate.semi.unimatch import UniMatch

__all__ = [
    "DSSN",
    "METHODS",
    "At",
    "FixMatch",
    "Found",
    "MeanTeacher",
    "Method",
    "Network",
    "Stream",
    "Supervised",
    "UniMatch",
    "Unlabelled",
    "parse_method",
]
