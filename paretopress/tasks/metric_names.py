"""Names of the metrics that outputs can be scored by, and their units."""

from __future__ import annotations

TOP_1, TOP_5, F1, AUROC = "top-1", "top-5", "F1", "AUROC"
SPEARMAN, R2 = "Spearman", "R2"
MIOU, MAP, MAP_50 = "mIoU", "mAP", "mAP50"
# of data without labels
AGREEMENT, SQNR = "agreement", "SQNR"
# metric -> unit, where that is not percent
UNITS = {SPEARMAN.lower(): "x 100", SQNR.lower(): "dB"}
