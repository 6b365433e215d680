"""Which of scikit-learn's checks of estimators the estimators over texts do not pass, and why.

All others pass, on arrays whose rows are turned into texts (`tests/estimators/test_checks.py`).
"""

LEFT_OUT = {
    "check_sample_weight_equivalence_on_dense_data": (
        "weights count in fits; folds, the choice of a head and its calibration count rows alike,"
        " and a repeated text lies in one fold (a weight of 0 is the row left out, exactly)"
    ),
    "check_sample_weights_shape": (
        "its 16 rows are four texts, each four times, and a repeated text lies in one fold: too few"
        " to judge heads out of fold, which is an error that says so"
    ),
    "check_sample_weights_not_overwritten": "as check_sample_weights_shape",
    "check_class_weight_classifiers": (
        "class_weight is 'balanced' or None; probabilities are calibrated to the classes'"
        " frequencies, whatever the weights in fits"
    ),
    "check_methods_sample_order_invariance": (
        "texts share batches: outputs agree to the rounding of float32, not to 1e-7"
    ),
    "check_methods_subset_invariance": "as check_methods_sample_order_invariance",
}
"""Name of a check -> why it is left out."""
