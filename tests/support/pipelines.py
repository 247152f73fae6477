"""A pipeline of the Object Detection API as small as one can be."""

from __future__ import annotations

PIPELINE = """\
# EfficientDet D0
model {
  ssd {
    num_classes: 90
    add_background_class: false
    box_coder { faster_rcnn_box_coder { y_scale: 10.0 x_scale: 10.0 height_scale: 5.0 width_scale: 5.0 } }
    matcher { argmax_matcher { matched_threshold: 0.5 } }
    anchor_generator {
      multiscale_anchor_generator {
        min_level: 3
        max_level: 7
        anchor_scale: 4.0
        aspect_ratios: [1.0, 2.0, 0.5]
        scales_per_octave: 3
      }
    }
    image_resizer {
      keep_aspect_ratio_resizer { min_dimension: 512 max_dimension: 512 pad_to_max_dimension: true }
    }
    box_predictor {
      weight_shared_convolutional_box_predictor {
        depth: 64
        conv_hyperparams {
          force_use_bias: true
          activation: SWISH
          regularizer { l2_regularizer { weight: 0.00004 } }
          batch_norm { scale: true decay: 0.99 epsilon: 0.001 }
        }
        num_layers_before_predictor: 3
        kernel_size: 3
        use_depthwise: true
      }
    }
    feature_extractor {
      type: 'ssd_efficientnet-b0_bifpn_keras'
      bifpn { min_level: 3 max_level: 7 num_iterations: 3 num_filters: 64 }
      conv_hyperparams {
        force_use_bias: true
        activation: SWISH
        batch_norm { scale: true, decay: 0.99, epsilon: 0.001 }
      }
    }
    post_processing {
      batch_non_max_suppression {
        score_threshold: 1e-8
        iou_threshold: 0.5
        max_detections_per_class: 100
        max_total_detections: 100
      }
      score_converter: SIGMOID
    }
  }
}
train_config { batch_size: 128 fine_tune_checkpoint: "PATH" }
"""


def changed(*changes: tuple[str, str]) -> str:
    """Return the pipeline with texts replaced, each of which it has."""
    text = PIPELINE
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text
