#!/usr/bin/env python3
"""Breaks the package on purpose, one idea at a time, and checks that a test fails: python scripts/breaks.py

Each entry of `BREAKS` is one way in which such code goes wrong: a flipped axis, half a pixel, a dropped term, a swapped
branch. The working tree is copied to a temporary folder. There the named tests must pass first. Then each break is
applied, its tests must fail, and the file is restored. The working tree itself is not changed. All breaks take about
ten minutes on one core; `--only=sign` takes those whose name contains "sign".
"""

import argparse
import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("jaxlm", "tests", "configs", "docs", "pyproject.toml", "train.py", "eval.py")
LIMIT = 900  # seconds for the tests of one break


@dataclasses.dataclass(frozen=True)
class Break:
    """One way to break the package.

    Attributes:
        name: the idea in a few words.
        file: the file that is changed, from the root of the repository.
        old: text that occurs exactly once in the file.
        new: text that replaces it.
        tests: files or node ids of pytest that must fail, separated by spaces; the cheapest ones.
        needs: a module without which pytest skips these tests; the break is then skipped, too.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    needs: str = ""


# Name, file, old text, new text, tests.
BREAKS = (
    # Geometry, heatmaps, losses, metrics, schemes.
    Break("a resize loses half a pixel", "jaxlm/geometry.py", "(points + 0.5) * scale - 0.5", "points * scale",
          "tests/test_geometry.py::test_a_resize_keeps_the_corners_of_the_image"),
    Break("a rotation turns the other way", "jaxlm/geometry.py", "[[cos, -sin], [sin, cos]]",
          "[[cos, sin], [-sin, cos]]", "tests/test_geometry.py::test_positive_rotation_turns_x_towards_y"),
    Break("a crop is centred between two pixels", "jaxlm/geometry.py", "(size - 1) / 2 - scale", "size / 2 - scale",
          "tests/test_geometry.py::test_a_whole_image_as_box_is_a_plain_resize"),
    Break("x and y of a soft-argmax are swapped", "jaxlm/heatmaps.py",
          "return jnp.stack([x, y], axis=-1)", "return jnp.stack([y, x], axis=-1)",
          "tests/test_heatmaps.py::test_soft_argmax_is_the_expectation_over_cells"),
    Break("a quarter of a cell in the wrong direction", "jaxlm/heatmaps.py",
          "x + 0.25 * _higher_side", "x - 0.25 * _higher_side",
          "tests/test_heatmaps.py::test_quarter_pixel_moves_towards_the_higher_neighbour_and_stays_at_the_border"),
    Break("a landmark off the image has a heatmap", "jaxlm/heatmaps.py", "height) * exists[..., None]", "height)",
          "tests/test_heatmaps.py::test_a_landmark_off_the_image_has_an_empty_map"),
    Break("a boundary line to a missing landmark", "jaxlm/heatmaps.py",
          "segments].all(axis=-1)[", "segments].any(axis=-1)[",
          "tests/test_by_hand.py::test_a_boundary_segment_needs_both_of_its_ends"),
    Break("the slope A of Eq. (3) lacks a factor", "jaxlm/losses.py",
          "omega * exponent * power / (theta", "omega * power / (theta",
          "tests/test_losses_metrics.py::test_adaptive_wing_costs_what_the_paper_s_numbers_say"),
    Break("the sign of a derivative by hand", "jaxlm/losses.py",
          "jnp.sign(pred - target) * slope", "jnp.sign(target - pred) * slope",
          "tests/test_losses_metrics.py::test_adaptive_wing_is_smooth_at_theta_and_around_zero"),
    Break("the mask of the weight map is not dilated", "jaxlm/losses.py", "dilated >= threshold", "target >= threshold",
          "tests/test_losses_metrics.py::test_the_weight_map_is_a_dilated_mask"),
    Break("a gradient flows through the weights of Eq. (9)", "jaxlm/losses.py",
          "error = lax.stop_gradient(error)", "pass",
          "tests/test_losses_metrics.py::test_the_adaptive_loss_is_the_weighted_l1_without_gradient_through_the_weights"),
    Break("a mean is divided by the number of all entries", "jaxlm/losses.py", "jnp.maximum(jnp.sum(mask), 1)",
          "jnp.asarray(mask.size)", "tests/test_losses_metrics.py::test_masked_mean_ignores_what_is_masked"),
    Break("a prediction that is not finite counts as missing", "jaxlm/metrics.py",
          "(jnp.isfinite(distance), distance, jnp.inf)", "(jnp.isfinite(distance), distance, jnp.nan)",
          "tests/test_losses_metrics.py::test_a_prediction_that_is_not_finite_fails"),
    Break("flicker is divided by frames instead of pairs", "jaxlm/metrics.py", "np.sqrt(total / pairs.sum())",
          "np.sqrt(total / len(values))", "tests/test_losses_metrics.py::test_flicker_and_both_nmfs_by_hand"),
    Break("an error equal to the threshold is a failure", "jaxlm/metrics.py", "(values > threshold)",
          "(values >= threshold)", "tests/test_losses_metrics.py::test_failure_rate_and_exact_auc"),
    Break("the AUC is the last height of the curve", "jaxlm/metrics.py", "np.maximum(0.0, 1.0 - values / threshold)",
          "(values <= threshold)", "tests/test_losses_metrics.py::test_failure_rate_and_exact_auc"),
    Break("a mirrored pair is wrong", "jaxlm/schemes.py", "*_mirror((31, 32), (35, 34)),", "(31, 35),",
          "tests/test_schemes_crops.py::test_a_scheme_is_consistent"),
    Break("inner instead of outer corners of the eyes", "jaxlm/schemes.py", "outer_eye_corners=(36, 45)",
          "outer_eye_corners=(39, 42)", "tests/test_schemes_crops.py::test_normalizers_by_hand"),
    # Solvers, gradients at an equilibrium, videos.
    Break("a solver returns the last instead of the best iterate", "jaxlm/solvers/loop.py",
          "jnp.where(better[:, None], fz", "jnp.where(active[:, None], fz",
          "tests/test_solvers.py::test_divergence_returns_the_best_iterate"),
    Break("the weights of Anderson do not sum to one", "jaxlm/solvers/acceleration.py",
          "return weights / jnp.where(total > 0, total, 1.0)", "return weights",
          "tests/test_solvers.py::test_solves_a_linear_problem"),
    Break("the direction of Broyden's step", "jaxlm/solvers/quasi_newton.py", "return z - beta * apply(us, vs, g)",
          "return z + beta * apply(us, vs, g)", "tests/test_solvers.py::test_solves_a_linear_problem"),
    Break("the sign of the adjoint", "jaxlm/implicit.py", "(jnp.subtract, u, vjp(u)[0])", "(jnp.add, u, vjp(u)[0])",
          "tests/test_implicit.py::test_implicit_gradient_equals_the_dense_solve"),
    Break("the loop of the solver is differentiated", "jaxlm/implicit.py",
          "    z, stats = _root(problem, options, z0, everything)\n    # Only",
          "    z, stats = problem.solver(lambda z: problem.step(z, everything), z0)\n    # Only",
          "tests/test_implicit.py::test_second_derivatives_come_from_the_implicit_function_theorem"),
    Break("an extrapolation that fails is kept", "jaxlm/solvers/acceleration.py",
          "rejected = self.extrapolated & ~(distance <= self.distance)",
          "rejected = self.extrapolated & (distance < 0)",
          "tests/test_solvers.py::test_anderson_goes_back_where_an_extrapolation_leaves_the_domain"),
    Break("the adjoint's residual is relative to the iterate", "jaxlm/implicit.py",
          "fun, right, scale=scale, **options[1])", "fun, right, **options[1])",
          "tests/test_implicit.py::test_an_adjoint_that_did_not_converge_is_counted_and_replaced"),
    Break("the best iterate by relative residual", "jaxlm/solvers/loop.py", "((distance < state.distance) | converged)",
          "((residual < state.residual) | converged)",
          "tests/test_solvers.py::test_the_best_iterate_is_not_one_that_blew_up"),
    Break("a rotation of GMRES turns the wrong way", "jaxlm/solvers/krylov.py", "set(-sine * rest)", "set(sine * rest)",
          "tests/test_solvers.py::test_gmres_agrees_with_jax_scipy_and_restarts"),
    Break("a gradient reaches the first iterate", "jaxlm/implicit.py", "z0 = lax.stop_gradient(z0)", "pass",
          "tests/test_implicit.py::test_no_gradient_through_z0_or_stats"),
    Break("a regularisation moves the equilibrium", "jaxlm/implicit.py", "    z = lax.stop_gradient(z)\n", "",
          "tests/test_by_hand.py::test_the_regularisation_does_not_move_the_equilibrium"),
    Break("RwR without its warm start", "jaxlm/video/recurrence.py", "step(_select(fresh, z0, tracking.z), frame)",
          "step(z0, frame)", "tests/test_video.py::test_scan_is_frame_after_frame_and_piece_after_piece"),
    Break("a scene cut is not noticed", "jaxlm/video/recurrence.py", "(fresh | ~(warm[1] <= max_residual)) & exists",
          "fresh & exists", "tests/test_video.py::test_restarts_where_told_at_a_cut_and_behind_a_nan"),
    Break("Eq. (8) with α instead of α/2", "jaxlm/video/energy.py", "alpha / 2 * _square", "alpha * _square",
          "tests/test_video.py::test_the_energy_s_minimum_is_the_closed_form"),
    Break("a causal filter gives its oldest frame", "jaxlm/video/filters.py", "pos=size - 1", "pos=0",
          "tests/test_filters.py::test_savitzky_golay_keeps_polynomials_of_its_degree"),
    Break("α and 1 − α of an average are swapped", "jaxlm/video/filters.py", "(1 - alpha) * total + alpha * weight",
          "alpha * total + (1 - alpha) * weight", "tests/test_filters.py::test_scores_weigh_the_average"),
    # Data.
    Break("a .pts file is read as if it counted from 0", "jaxlm/data/readers/points.py",
          "return points - 1.0", "return points", "tests/test_readers_builders.py::test_pts_are_one_based"),
    Break("COCO's width is taken for a corner", "jaxlm/data/readers/coco.py", "[x, y, x + width, y + height]",
          "[x, y, width, height]", "tests/test_readers_builders.py::test_formats_round_trip_through_the_cache"),
    Break("the bin of a yaw depends on its sign", "jaxlm/data/samples.py", "abs(degrees)", "degrees",
          "tests/test_params_data.py::test_aflw2000"),
    Break("y of 300W-LP is off by one", "jaxlm/data/sets/three_hundred_w_lp.py", "pose[4] - height,",
          "pose[4] - height - 1.0,", "tests/test_params_data.py::test_pose_parameters_in_the_picture"),
    Break("a cache outlives its data set", "jaxlm/data/builder.py", "*file_stats(files, folder)]",
          "*[]]", "tests/test_readers_builders.py::test_an_edited_file_is_read_again"),
    Break("landmarks jump while a head turns", "jaxlm/data/rendered/faces.py", "slide * turned**2 * (3 - 2 * turned)",
          "slide * (turned > 0)", "tests/test_render.py::test_landmarks_move_without_jumps_while_a_head_turns"),
    Break("hidden contour points lie where rows of the mesh do", "jaxlm/data/rendered/faces.py",
          "jnp.where(hidden[:, None], even, contour)", "contour",
          "tests/test_render.py::test_hidden_contour_points_are_spread_evenly"),
    Break("CenterFace's rows and columns change places", "jaxlm/predict/detectors.py", "y, x = 4 * (", "x, y = 4 * (",
          "tests/test_detectors.py::test_centerface_s_maps_become_boxes"),
    Break("a person is on both sides of a split", "jaxlm/data/builder.py",
          "sha256(group.encode())", "sha256(sample.key.encode())",
          "tests/test_readers_builders.py::test_held_out_people_stay_together_and_are_stable"),
    Break("the margin of a crop", "jaxlm/data/crops.py", "square_box(box, 1.2)", "square_box(box, 1.25)",
          "tests/test_schemes_crops.py::test_crop_protocols_by_hand"),
    Break("a flip without its permutation", "jaxlm/data/augment.py",
          "landmarks, mask, visibility = landmarks[order], mask[order], visibility[order]", "del order",
          "tests/test_augment_pipeline.py::test_two_flips_are_none"),
    Break("a mirror image is shifted by a pixel", "jaxlm/data/augment.py",
          "[[-1.0, 0.0, size - 1.0]", "[[-1.0, 0.0, size]", "tests/test_augment_pipeline.py::test_two_flips_are_none"),
    Break("the normaliser stays in pixels of the picture", "jaxlm/data/augment.py", "length *= np.sqrt(", "np.sqrt(",
          "tests/test_augment_pipeline.py::test_transform_maps_the_image_to_the_crop"),
    Break("every process reads the same samples", "jaxlm/data/batches.py", "[process_index::process_count]",
          "[::process_count]", "tests/test_augment_pipeline.py::test_processes_share_a_batch"),
    Break("the weights of a mixture are ignored", "jaxlm/data/batches.py", ".mix(parts, weights)", ".mix(parts)",
          "tests/test_augment_pipeline.py::test_mixture_weights"),
    Break("padding counts as the first face", "jaxlm/data/batches.py", "= np.int32(-1)", "= np.int32(0)",
          "tests/test_augment_pipeline.py::test_evaluation_visits_every_sample_once_and_pads"),
    Break("a lost face does not restart its video", "jaxlm/data/video_batches.py",
          "not geometry.box_iou(before, box) >= min_iou", "geometry.box_iou(before, box) < min_iou",
          "tests/test_video_data.py::test_crops_come_in_pieces_and_say_where_to_restart"),
    # Faces in 3D.
    Break("the frame of a crop counts from 0", "jaxlm/face3d/parameters.py",
          "[points[..., 0] - 1.0,", "[points[..., 0],", "tests/test_morphable.py::test_released_frame"),
    Break("the sign of the yaw", "jaxlm/face3d/parameters.py", "(cy * cr, cy * sr, -sy)", "(cy * cr, cy * sr, sy)",
          "tests/test_morphable.py::test_angles_against_scipy"),
    Break("the visible half of the contour counts for less", "jaxlm/face3d/fitting.py",
          "jnp.where(yaw > 0, index", "jnp.where(yaw < 0, index",
          "tests/test_fitting.py::test_the_hidden_contour_of_2d_annotations_does_not_count"),
    Break("the farthest triangle is seen", "jaxlm/face3d/rasterizer.py", "(corners[..., 2] - farthest)",
          "(nearest - corners[..., 2])", "tests/test_render.py::test_rasterizer_agrees_with_brute_force"),
    # Networks and systems.
    Break("a kernel is not turned for its adjoint", "jaxlm/networks/convolution.py",
          "jnp.flip(kernel, (0, 1)).swapaxes", "kernel.swapaxes",
          "tests/test_networks.py::test_convolution_and_its_gradients_are_xlas"),
    Break("a small image gets no border", "jaxlm/networks/convolution.py",
          "((0, 0), *_borders(kernel), (0, 0))", "((0, 0), (0, 0), (0, 0), (0, 0))",
          "tests/test_networks.py::test_convolution_and_its_gradients_are_xlas"),
    Break("a step's state meets the weights of the image", "jaxlm/systems/ldeq/network.py",
          "self.kernel[:, :, self.inputs :]", "self.kernel[:, :, : self.states]",
          "tests/test_ldeq.py::test_the_split_convolution_is_that_of_both_inputs"),
    Break("a triangle's weights change along the wrong axis", "jaxlm/face3d/rasterizer.py",
          "return along_x, along_y", "return along_y, along_x",
          "tests/test_render.py::test_rasterizer_agrees_with_brute_force"),
    Break("a small face in the small copy ends the search", "jaxlm/predict/detectors.py", "_LARGE_FACE = 0.3",
          "_LARGE_FACE = 0.0", "tests/test_detectors.py"),
    Break("the mean gradient of a group is not taken away", "jaxlm/networks/normalization.py",
          "wide - mean_total - unit", "wide - unit",
          "tests/test_networks.py::test_group_norm_and_its_gradients_are_flaxs"),
    Break("all heatmaps share one maximum", "jaxlm/networks/blocks.py", "logits.max(axis=(1, 2), keepdims",
          "logits.max(axis=(1, 2, 3), keepdims", "tests/test_ldeq.py::test_temperature_sharpens"),
    Break("a prediction lacks the last application", "jaxlm/systems/ldeq/network.py", "z0, image=True)",
          "z0, image=False)", "tests/test_video.py::test_a_prediction_is_the_forward_pass_of_training"),
    Break("coordinates are not gated by the boundary", "jaxlm/systems/awing/network.py",
          "[columns * on_boundary, rows * on_boundary]", "[columns, rows]",
          "tests/test_stacked_hourglass.py::test_coordinates_by_hand"),
    Break("landmarks off the image are trained on", "jaxlm/systems/objective.py", 'batch["mask"] & inside',
          'batch["mask"]', "tests/test_awing.py::test_the_landmark_objective_is_in_units_of_the_side"),
    Break("the weight map is off", "jaxlm/systems/objective.py", "values = values * weight(", "weight(",
          "tests/test_awing.py::test_the_heatmap_objective_is_the_mean_over_what_exists_summed_over_stages"),
    Break("the term of the boundary is dropped", "jaxlm/systems/objective.py",
          "masked_mean(values.mean(axis=(1, 2)), mask)", "masked_mean(values.mean(axis=(1, 2))[:, :68], mask[:, :68])",
          "tests/test_awing.py::test_the_heatmap_objective_is_the_mean_over_what_exists_summed_over_stages"),
    Break("weight decay on biases and norms", "jaxlm/systems/optim.py", "leaf.ndim > 1", "leaf.ndim > 0",
          "tests/test_optim.py::test_weight_decay_spares_vectors"),
    Break("the weights of the moving average are swapped", "jaxlm/systems/optim.py",
          "decay * average + (1.0 - decay) * value", "decay * value + (1.0 - decay) * average",
          "tests/test_by_hand.py::test_the_average_is_warmed_up_and_is_what_predicts"),
    Break("the moving average is not used", "jaxlm/systems/system.py", "return self.ema",
          'return {"params": self.params, "batch_stats": self.batch_stats}',
          "tests/test_by_hand.py::test_the_average_is_warmed_up_and_is_what_predicts"),
    Break("a margin makes a face larger", "jaxlm/systems/reinit/alignment.py", "1.0 / (margin * half)", "margin / half",
          "tests/test_alignment.py::test_the_normalized_state_is_the_same_wherever_the_face_was"),
    Break("the sampler swaps rows and columns", "jaxlm/systems/reinit/sampler.py", "start_index_map=(1, 0)",
          "start_index_map=(0, 1)", "tests/test_sampler.py::test_it_is_bilinear_inside_and_black_outside"),
    Break("Eq. (7) with the inverse map", "jaxlm/systems/reinit/network.py", "apply_affine(matrix, start + change)",
          "apply_affine(geometry.invert_affine(matrix), start + change)",
          "tests/test_reinit.py::test_the_stages_compose_as_equation_7"),
    Break("θ and its inverse are swapped", "jaxlm/systems/reinit/network.py",
          '(theta if self.direction == "sampling"', '(theta if self.direction != "sampling"',
          "tests/test_by_hand.py::test_the_direction_says_whether_theta_or_its_inverse_samples"),
    Break("the depth of the translation counts", "jaxlm/systems/tddfa/costs.py",
          "of_transform = of_transform.at[:, 2, 3].set(0.0)", "pass",
          "tests/test_morphable.py::test_depth_of_the_translation_does_not_count"),
    Break("Algorithm 2 without the scale", "jaxlm/systems/tddfa/costs.py",
          "scale * difference[:, 12:]", "difference[:, 12:]", "tests/test_morphable.py::test_fwpdc_is_wpdc"),
    Break("the worst branch is followed", "jaxlm/systems/tddfa/lookahead.py",
          "jnp.argmin(errors)", "jnp.argmax(errors)", "tests/test_lookahead.py::test_algorithm_1_by_hand"),
    Break("one step of the average for a whole round", "jaxlm/systems/tddfa/lookahead.py", ") ** settings.k", ")",
          "tests/test_lookahead.py::test_the_average_follows_the_winner"),
    Break("the parameters of a turned face are not turned", "jaxlm/systems/tddfa/synthesis.py",
          "[turn @ transform[:, :3], shift", "[transform[:, :3], shift",
          "tests/test_synthesis.py::test_pixels_move_with_the_landmarks"),
    Break("fits to one contour are another's", "jaxlm/data/face_parameters.py",
          "{fitting.VERSION}{config['morphable'].contour}", "{fitting.VERSION}",
          "tests/test_params_data.py::test_fitted_parameters_are_kept_and_bad_faces_left_out"),
    Break("the sign of a roll", "jaxlm/systems/tddfa/synthesis.py", "stack([cos, sin]), jnp.stack([-sin, cos])",
          "stack([cos, -sin]), jnp.stack([sin, cos])",
          "tests/test_by_hand.py::test_a_roll_turns_the_head_clockwise_on_the_screen"),
    # Training, evaluation, prediction, export, conversion.
    Break("a resumed training starts the data anew", "jaxlm/training.py", "batches.set_state(iterator_state)", "pass",
          "tests/test_training.py::test_interrupted_and_resumed_to_the_same_bits"),
    Break("the best checkpoint has the largest error", "jaxlm/workdir/checkpoints.py", "min(measured)[1]",
          "max(measured)[1]", "tests/test_training.py::test_the_best_and_the_last_two_checkpoints_are_kept"),
    Break("the last checkpoint passes for the best", "jaxlm/workdir/restore.py", "saved.best_step", "saved.last_step",
          "tests/test_by_hand.py::test_best_and_last_name_their_checkpoints"),
    Break("a length in the crop, errors in the picture", "jaxlm/evaluation/stills.py",
          "[real] / np.sqrt(np.abs(np.linalg.det(transform[..., :2])))", "[real]",
          "tests/test_evaluation.py::test_every_normalizer_of_a_face"),
    Break("a subset is ignored", "jaxlm/evaluation/stills.py", "member = self.subsets[subset]",
          'member = self.subsets["all"]', "tests/test_by_hand.py::test_rows_and_subsets_by_hand"),
    Break("FR8 has the threshold of FR10", "jaxlm/evaluation/stills.py", "failure_rate(values, 0.08)",
          "failure_rate(values, 0.1)", "tests/test_by_hand.py::test_rows_and_subsets_by_hand"),
    Break("a limit takes the first faces", "jaxlm/evaluation/stills.py", "[index * self.stride]", "[index]",
          "tests/test_by_hand.py::test_a_limit_takes_evenly_spaced_faces"),
    Break("rough boxes are trusted", "jaxlm/predict/predictor.py",
          "trusts_boxes = crops.looks_at_box", "trusts_boxes = not crops.looks_at_box",
          "tests/test_predict.py::TestPredictor::test_the_crop_is_taken_again_where_boxes_are_rough"),
    Break("two maps are composed in the wrong order", "jaxlm/predict/full_picture.py",
          "(located[row], transforms[row])", "(transforms[row], located[row])",
          "tests/test_by_hand.py::test_the_normalised_face_is_resampled_from_the_picture"),
    Break("a detected box is half a pixel off", "jaxlm/predict/detectors.py", "boxes / scale - 0.5", "boxes / scale",
          "tests/test_by_hand.py::test_boxes_in_a_shrunk_picture_come_back_to_its_pixels"),
    Break("an uncertain model counts for more", "jaxlm/predict/ensemble.py",
          "weights[:, :, None] / (jnp.square", "weights[:, :, None] * (jnp.square",
          "tests/test_ensemble.py::test_an_uncertain_or_left_out_model_counts_for_less"),
    Break("a .pts file is written from 0", "jaxlm/predict/outputs.py", "np.asarray(landmarks, np.float64) + 1.0]",
          "np.asarray(landmarks, np.float64)]", "tests/test_predict.py::TestProgram::test_a_folder_of_everything"),
    Break("the sign of a mean in a folded batch norm", "jaxlm/export/folding.py",
          '- np.asarray(statistics["mean"]) * gain', '+ np.asarray(statistics["mean"]) * gain',
          "tests/test_folding.py::test_folding_changes_nothing_but_the_operations"),
    Break("an export is not checked", "jaxlm/export/forms.py", "if not difference <= tolerance:", "if False:",
          "tests/test_export.py::TestBadInput::test_what_is_too_far_off_is_not_written", needs="jax2onnx"),
    Break("a pickle changes a function", "jaxlm/support/pickles.py",
          "        pickle.BUILD[0]: load_build,", "",
          "tests/test_torch_files.py::test_nothing_is_run_and_nothing_is_changed"),
    Break("a tensor reaches beyond its storage", "jaxlm/convert/torch_files.py", "if count and last >= storage.count:",
          "if False:", "tests/test_torch_files.py::test_a_tensor_that_claims_what_is_not_there"),
    Break("kernels of PyTorch are transposed", "jaxlm/convert/layers.py",
          ".transpose(2, 3, 1, 0)", ".transpose(3, 2, 1, 0)",
          "tests/test_by_hand.py::test_kernels_of_pytorch_without_pytorch"),
    Break("a released translation is halved", "jaxlm/convert/dpr.py", "+ 2.0 * a[:, :, 2]", "+ a[:, :, 2]",
          "tests/test_by_hand.py::test_a_released_matrix_in_units"),
)  # fmt: skip


def check(breaks: Sequence[Break], root: Path) -> None:
    """Raises a ValueError that names the first break whose old text does not occur exactly once in its file."""
    for one in breaks:
        path = root / one.file
        count = path.read_text(encoding="utf-8").count(one.old) if path.is_file() else 0
        if count != 1:
            raise ValueError(f'Break "{one.name}": {one.old!r} must occur once in {one.file}, not {count} times.')


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Runs tests in a copy of the tree.

    Returns:
        Exit status of pytest, None where it took too long, and what it printed.
    """
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_COMPILATION_CACHE_DIR": f"{folder}_compiled"}
    # A cached .pyc would hide a break of the same length that is made within the same second.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return None, f"pytest was stopped after {LIMIT} s."
    return done.returncode, done.stdout + done.stderr


def try_break(one: Break, folder: Path) -> tuple[bool, str]:
    """Applies a break in a copy of the tree, runs its tests and restores the file.

    Returns:
        Whether a test failed, and what pytest printed.
    """
    path = folder / one.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(one.old, one.new), encoding="utf-8")
    try:
        status, printed = run_tests(folder, one.tests.split())
    finally:
        path.write_text(whole, encoding="utf-8")
    return status == 1, printed  # with 2 and more the tests did not run


def try_all(breaks: Sequence[Break], root: Path, folder: Path, verbose: bool) -> bool:
    """Copies the tree from `root` to `folder`, tries the breaks there and prints a line for each.

    Returns:
        Whether all breaks were caught.

    Raises:
        ValueError: if a break does not fit its file, or its tests fail without it.
    """
    check(breaks, root)
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(root / name, folder / name)
    start = time.monotonic()
    status, printed = run_tests(folder, list(dict.fromkeys(test for one in breaks for test in one.tests.split())))
    if status != 0:
        raise ValueError(f"The tests must pass without a break; pytest ended with {status}:\n{printed[-4000:]}")
    print(f"{'without a break':56} passed     {time.monotonic() - start:5.0f} s", flush=True)
    missed = 0
    for one in breaks:
        start = time.monotonic()
        caught, printed = try_break(one, folder)
        missed += not caught
        verdict = "caught" if caught else "NOT CAUGHT"
        print(f"{one.name:56} {verdict:10} {time.monotonic() - start:5.0f} s", flush=True)
        if verbose:
            print(printed, flush=True)
    print(f"{len(breaks) - missed} of {len(breaks)} breaks were caught.")
    return not missed


def main() -> int:
    """Returns 0 where all breaks were caught, 1 where one was not, 2 where they could not be tried."""
    parser = argparse.ArgumentParser(description="Breaks the package on purpose and checks that a test fails.")
    parser.add_argument("--only", default="", help="try the breaks whose name contains this text")
    parser.add_argument("--verbose", action="store_true", help="print what pytest printed")
    options = parser.parse_args()
    chosen = []
    for one in (one for one in BREAKS if options.only in one.name):
        if one.needs and importlib.util.find_spec(one.needs) is None:
            print(f"{one.name:56} skipped: {one.needs} is not installed")
        else:
            chosen.append(one)
    try:
        if not chosen:
            raise ValueError(f"There is no break to try with {options.only!r} in its name.")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "tree"
            folder.mkdir()
            return 0 if try_all(chosen, ROOT, folder, options.verbose) else 1
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
