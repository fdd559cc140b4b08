"""Items of the contract that do not hold for some losses, and why: tables for the rows of `cases.py`."""

NO_PART = {
    "C1g": "a class without components takes no part in a mean of costs",
    "C10e": "costs of classes that are not scored are those of the background of others",
}
NOT_PROPER = {"C8a": "no proper score: with soft labels the optimum is not p = y"}
SHARES = {"C8a": "its class weights are shares of the target"}
SMOOTHED = {
    "C2a": "a smoothed label has no finite optimum, and costs more as logits grow",
    "C2b": "as C2a",
    "C3b": "as C2a",
    "C5": "infinite for the -inf logit of an unused class",
    "C8a": "the optimum is the smoothed label",
    "C22": "as C2a",
}
CHOICE = {
    "C9a": "one choice of voxels over all channels",
    "C10c": "a voxel of weight 0 or 2 is one voxel among those chosen from",
    "C15": "kinks where voxels change places in the choice",
}
EACH_CHANNEL = {item: why for item, why in CHOICE.items() if item != "C9a"}
FULL = {"C22": "no longer grows once all the voxels chosen are wrong"}
THRESHOLD = {"C8a": "another voxel above the threshold can lower the mean"}
ONE_RATIO = {"C9a": "one ratio over all channels"}
TWO_KINDS_OF_ERROR = {"C9c": "hinge errors in sigmoid mode, of probabilities in softmax mode"}
MASKS_ONLY = {
    "C8a": "takes a soft target for the mask above 0.5",
    "C8d": "as C8a",
}
DIAGONAL = {"C1a": "the diagonal is that of the whole image"}
BLIND = {
    "C1c": "thin errors in a small image cost nothing, and have no gradient",
    "C8a": "errors below 0.7 cost nothing",
    "C8d": "as C8a",
    "C9a": "as C1c",
    "C9b": "as C1c",
    "C22": "as C1c",
}
POINTS = {
    "C1a": "the largest distance is the diagonal of the whole image",
    "C3a": "a probability of 1e-9 shows beside its epsilon",
    "C3b": "as C3a, and the more so the more voxels there are",
    "C4": "divides by an epsilon of 1e-6",
    "C10d": "an epsilon beside the sum of weighted probabilities",
}
SKELETON = {"C22": "a shift by less than the width of an object leaves its skeleton inside"}
RECALL = {
    "C1a": "where the image ends an object goes on, for the thinning, and at ignored voxels it does not",
    "C1g": "an absent class has nothing to be recalled",
    "C2b": "false positives are free by definition",
    "C2c": "looks at the middle of an object only",
    "C3": "an absent class is left out under both policies",
    "C3c": "as C2b",
}
ONE_DIVISOR = {"C9a": "one divisor over all channels, the number of those selected"}
WINDOWS = {
    "C1a": "windows that end at ignored voxels differ from those that are mirrored at the border of the image",
    "C22": "divides by the number of selected voxels, so that more of them may cost less",
}
UNDETACHED = {"C2c": "raising a flat prediction gives it structure, and with it error, before it matches the target"}
BATCH_MAXIMUM = {"C11": "the largest error is that of the batch", "C12": "as C11"}
PATCHES = {
    "C1a": "patches with ignored voxels differ from those at the border of the image",
    "C10d": "voxel weights multiply its cross entropy only",
    "C22": "the mutual information does not know a mask from its complement",
}
# C8a holds for compounds: the kink of the region part at p = y outweighs a voxel part that is not a proper score.
TWO_PARTS = {
    "C9c": "of two classes, its voxel part would need both and its region part only the foreground",
}
