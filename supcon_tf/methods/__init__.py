"""The training methods by name. To add one, write one file and one line here."""

from functools import partial

from supcon_tf.losses.cacr import CACRLoss
from supcon_tf.losses.max_margin import MaxMarginLoss
from supcon_tf.losses.npairs import NPairsLoss
from supcon_tf.losses.simclr import SimCLRLoss
from supcon_tf.losses.supcon import SupConLoss
from supcon_tf.losses.triplet import TripletLoss
from supcon_tf.methods import bcl, comatch, cross_entropy, joint, loco, suncet
from supcon_tf.methods.pairwise import pairwise
from supcon_tf.methods.spec import MethodSpec

# Each positive against the negatives alone.
_one_positive = partial(SupConLoss, summation_location="out", denominator_mode="one_positive")

METHODS: dict[str, MethodSpec] = {
    "supcon_out": pairwise(partial(SupConLoss, summation_location="out")),
    "supcon_in": pairwise(partial(SupConLoss, summation_location="in")),
    "sincere": pairwise(partial(_one_positive, margin=0.0)),
    "epsilon_supinfonce": pairwise(_one_positive, margin=0.25),
    "simclr": pairwise(SimCLRLoss),
    "triplet": pairwise(TripletLoss),
    "npairs": pairwise(NPairsLoss),
    "max_margin": pairwise(MaxMarginLoss),
    "cacr": pairwise(CACRLoss),
    "cross_entropy": cross_entropy.SPEC,
    "joint": joint.SPEC,
    "suncet": suncet.SPEC,
    "comatch": comatch.SPEC,
    "loco": loco.SPEC,
    "bcl": bcl.SPEC,
}
