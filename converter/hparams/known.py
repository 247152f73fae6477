"""Every hyperparameter that the official code has; a name that it does not have is a mistake."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from effdet_torch.errors import ConfigError

# Without effect on the network and on what surrounds it at inference: data, training, logging, hardware. With the names
# of the runs of `main.py` and `tf2/train.py`, which they write into config.yaml, and those of earlier releases.
_NAMES = """
    alpha autoaugment_policy batch_size box_loss_weight ckpt_var_scope clip_gradients_norm data_format dataset_type
    debug delta drop_remainder eval_samples first_lr_drop_epoch gamma grad_checkpoint grid_mask img_summary_steps
    input_rand_hflip iou_loss_type iou_loss_weight is_training_bn iterations_per_loop jitter_max jitter_min
    label_smoothing learning_rate loss_scale lr_decay_method lr_warmup_epoch lr_warmup_init map_freq
    max_instances_per_image mixed_precision model_dir model_name model_optimizations momentum moving_average_decay
    num_epochs num_examples_per_epoch num_shards optimizer poly_lr_power positives_momentum precision profile
    regenerate_source_id run_epochs sample_image save_checkpoints_steps save_freq second_lr_drop_epoch
    skip_crowd_during_training skip_mismatch steps_per_epoch steps_per_execution strategy target_size
    testdev_dir tf_random_seed tflite_max_detections tunable_hparams use_bfloat16 use_keras_model use_native_resize_op
    use_tpu val_json_file var_freeze_expr verbose weight_decay
"""
WITHOUT_EFFECT = frozenset(_NAMES.split())


def require_known(names: Iterable[str], with_effect: Collection[str], origin: str) -> None:
    """Check that all names are hyperparameters.

    Args:
        names: what was given.
        with_effect: the names that matter.
        origin: who gave them, for the error.

    Raises:
        ConfigError: A name is unknown; the text has the closest one.
    """
    known = WITHOUT_EFFECT.union(with_effect)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name.lower(), known, n=1)
            hint = f"did you mean {close[0]}?" if close else "the official code has no such hyperparameter"
            raise ConfigError(f"{origin}: unknown hyperparameter {name}; {hint}")
