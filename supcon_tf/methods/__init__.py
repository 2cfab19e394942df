"""The training methods by name. To add one, write one file and one line here."""

from functools import partial

from supcon_tf.losses.max_margin import MaxMarginLoss
from supcon_tf.losses.npairs import NPairsLoss
from supcon_tf.losses.simclr import SimCLRLoss
from supcon_tf.losses.supcon import SupConLoss
from supcon_tf.losses.triplet import TripletLoss
from supcon_tf.methods import cross_entropy, loco, suncet
from supcon_tf.methods.pairwise import pairwise
from supcon_tf.methods.spec import MethodSpec

METHODS: dict[str, MethodSpec] = {
    "supcon_out": pairwise(partial(SupConLoss, summation_location="out")),
    "supcon_in": pairwise(partial(SupConLoss, summation_location="in")),
    "simclr": pairwise(SimCLRLoss),
    "triplet": pairwise(TripletLoss),
    "npairs": pairwise(NPairsLoss),
    "max_margin": pairwise(MaxMarginLoss),
    "cross_entropy": cross_entropy.SPEC,
    "suncet": suncet.SPEC,
    "loco": loco.SPEC,
}
