"""The scenarios as data: what each measures, its figures in the order of the README, and what they should reach.

A scenario's module has a function `measure(settings) -> dict[str, Figure]`; it is imported only to be run.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FigureSpec:
    """Describe one figure for the README. Units: `aim` in the figure's own unit; is_lower_better for times."""

    name: str
    label: str
    aim: float
    is_lower_better: bool = False


@dataclass(frozen=True)
class Scenario:
    """Describe one measurement; `counts` says what --n counts."""

    name: str
    title: str
    module: str
    default_n: int
    counts: str
    figures: tuple[FigureSpec, ...]


SCENARIOS = (
    Scenario(
        "t2i_fidelity",
        "Does the picture show what the prompt says? Judged by the scene parser",
        "benchmarks.fidelity",
        96,
        "prompts a task",
        (
            FigureSpec("parser_clean_acc", "scene parser, clean held-out renders: every class and colour", 0.99),
            FigureSpec("parser_roundtrip_acc", "the same after the autoencoder's round trip", 0.97),
            FigureSpec("geneval_single", "GenEval: single object", 0.97),
            FigureSpec("geneval_two", "GenEval: two objects", 0.80),
            FigureSpec("geneval_counting", "GenEval: counting, two to four", 0.50),
            FigureSpec("geneval_colours", "GenEval: colours", 0.95),
            FigureSpec("geneval_position", "GenEval: position", 0.55),
            FigureSpec("geneval_attribution", "GenEval: colour attribution", 0.65),
            FigureSpec("geneval_overall", "GenEval: overall, mean of the six", 0.74),
            FigureSpec("one_object_all", "object, colour, background and style all as asked", 0.85),
            FigureSpec("heldout_pair_gap", "colour right: trained minus never-trained pairs", 0.10, True),
        ),
    ),
    Scenario(
        "t2i_techniques",
        "What each technique changes, same prompts and seeds without and with it",
        "benchmarks.techniques",
        200,
        "prompts a technique",
        (
            FigureSpec("techniques_with_effect", "techniques with an effect, pictures no worse", 7),
            FigureSpec("best_attribution", "colour attribution with the best technique", 0.85),
            FigureSpec("best_position", "position with the best technique", 0.75),
            FigureSpec("layout_instance_success", "layouts: boxes filled, right thing, right colour", 0.75),
            FigureSpec("layout_miou", "layouts: mean IoU of boxes and things", 0.6),
            FigureSpec("rece_erased_rate", "RECE: the erased thing is still found", 0.05, True),
            FigureSpec("rece_kept_loss", "RECE: what other things lose", 0.03, True),
            FigureSpec("rece_seconds", "RECE: seconds to erase", 5.0, True),
        ),
    ),
    Scenario(
        "style",
        "Does a picture take the style of another one, and nothing else? Visual Style Prompting against StyleAligned",
        "benchmarks.style",
        200,
        "pairs",
        (
            FigureSpec(
                "style_distance_ratio", "distance to the reference's style as a share of StyleAligned's", 0.70, True
            ),
            FigureSpec("gram_distance_ratio", "Gram distance as a share of StyleAligned's, geometric mean", 0.70, True),
            FigureSpec(
                "pareto_worst_ratio",
                "distance as a share of StyleAligned's where no less of the content is shown, worst of its weights",
                1.0,
                True,
            ),
            FigureSpec(
                "content_accuracy_gap",
                "kind and colour as asked: what words alone have more (than StyleAligned)",
                0.05,
                True,
            ),
            FigureSpec(
                "leakage", "the reference's thing appears, more often than with words alone (StyleAligned)", 0.05, True
            ),
            FigureSpec("cached_cost_ratio", "time of a picture with a known reference / without one", 1.2, True),
            FigureSpec("first_cost_ratio", "time of the first picture with a new reference / without one", 2.2, True),
            FigureSpec("four_pictures_s", "four pictures, 256 px, with a new reference (four plain ones)", 10.0, True),
        ),
    ),
    Scenario(
        "drag",
        "Dragging: does the thing get where it is pulled, and stay what it is? Exact edits of drawn scenes",
        "benchmarks.drag",
        132,
        "edits",
        (
            FigureSpec("distance_ratio_best", "distance left, share of the way: the best method", 0.30, True),
            FigureSpec("distance_ratio_instant", "distance left, share of the way: Instant", 0.45, True),
            FigureSpec("outside_psnr_db", "PSNR outside the mask, best method", 35.0),
            FigureSpec("kept_rate", "class and colour kept, best method", 0.90),
            FigureSpec("instant_s", "Instant, 40-px moves", 3.0, True),
            FigureSpec("drag_noise_s", "DragNoise, 40-px moves", 20.0, True),
            FigureSpec("drag_diffusion_s", "DragDiffusion, 40-px moves", 20.0, True),
            FigureSpec(
                "dragnoise_time_ratio", "time of the pull to the same distance, DragNoise by DragDiffusion", 0.5, True
            ),
            FigureSpec(
                "stop_max_s", "longest time between two looks at Stop, also while a picture is learned", 1.0, True
            ),
        ),
    ),
    Scenario(
        "personalization",
        "Is it this very thing, in what the prompt asks for? Subjects with markings that no training ever saw",
        "benchmarks.personalization",
        12,
        "subjects",
        (
            FigureSpec(
                "hypervolume_gain", "DCO + reward guidance: hypervolume of its curve above DreamBooth-LoRA's", 0.0
            ),
            FigureSpec("guided_unshown_hypervolume_gain", "the same without the subject's picture put in", 0.0),
            FigureSpec(
                "identity_fraction", "DCO + reward guidance: identity, share of clean renders' (plain model)", 0.80
            ),
            FigureSpec(
                "prompt_fidelity_fraction", "DCO + reward guidance: prompt fidelity, share of the plain model's", 0.85
            ),
            FigureSpec("learn_s", "learning one subject, samples on the way included", 60.0, True),
            FigureSpec("sample_cost_ratio", "DCO + reward guidance: time as a share of a plain picture's", 1.6, True),
            FigureSpec("instant_s", "Instant: one picture, from nothing", 5.0, True),
        ),
    ),
    Scenario(
        "super_resolution",
        "How near do enlarged photographs come to the originals, and do they agree with what was enlarged?",
        "benchmarks.super_resolution",
        16,
        "photographs",
        (
            FigureSpec("x4_gain_over_backprojection_db", "Faithful, x4: PSNR above back-projection alone", 0.3),
            FigureSpec("x4_gain_over_bicubic_db", "Faithful, x4: PSNR above bicubic", 1.0),
            FigureSpec("worst_photo_gain_db", "Faithful, worst photograph, scale and damage: above bicubic", 0.0),
            FigureSpec("consistency_db", "Faithful, worst photograph: agreement with the upload", 48.0),
            FigureSpec("detail_consistency_db", "Detail, x4: agreement with the upload", 40.0),
            FigureSpec("detail_psnr_loss_db", "Detail, x4: PSNR below Faithful", 1.0, True),
            FigureSpec("detail_sharpness_gain", "Detail, x4: how much nearer than Faithful its sharpness comes", 0.0),
            FigureSpec(
                "detail_seam_ratio",
                "Detail: steps across tile borders, against the same picture made without tiles",
                1.0,
                True,
            ),
            FigureSpec("known_damage_gain_db", "Known damage (the harder of two kinds): PSNR above Faithful", 1.0),
            FigureSpec("faithful_4096_s", "Faithful, 1024 to 4096 px", 30.0, True),
            FigureSpec("detail_2048_s", "Detail, 512 to 2048 px", 60.0, True),
            FigureSpec("peak_mb", "peak memory of the larger of the two", 3000.0, True),
        ),
    ),
    Scenario(
        "low_light",
        "How near do lit photographs come to full light? A tenth of it, taken by a camera that no training knows",
        "benchmarks.low_light",
        16,
        "photographs",
        (
            FigureSpec(
                "dark01_low_noise_db", "Diffusion, little noise: PSNR, true brightness (oracle brightening)", 24.0
            ),
            FigureSpec(
                "dark01_high_noise_db", "Diffusion, much noise: PSNR, true brightness (oracle brightening)", 18.5
            ),
            FigureSpec("worst_gain_over_lime_db", "Diffusion, worst photograph and noise: PSNR above LIME", 0.0),
            FigureSpec("worst_gain_over_clahe_db", "Diffusion, worst photograph and noise: PSNR above CLAHE", 0.0),
            FigureSpec(
                "parser_recovery",
                "scene parser: share of what darkness cost that is recovered, brightness guessed by the page",
                0.70,
            ),
            FigureSpec("first_view_s", "first lit view, 1024 px", 0.5, True),
            FigureSpec("diffusion_1024_s", "Diffusion, 1024 px", 12.0, True),
        ),
    ),
    Scenario(
        "preview_3d",
        "How near is a model made of one picture to the unseen solid?",
        "benchmarks.preview_3d",
        50,
        "unseen solids",
        (
            FigureSpec("view_psnr_db", "PSNR of the model at angles that nobody is given (Inflate)", 18.0),
            FigureSpec("view_gain_over_inflate_db", "the same, paired: above Inflate", 2.0),
            FigureSpec("silhouette_iou", "outline at those angles, IoU (Inflate)", 0.85),
            FigureSpec("chamfer", "distance between the surfaces, the picture being 2 wide (Inflate)", 0.07, True),
            FigureSpec("curriculum_gain", "falling noise against any noise, equal steps: PSNR", 0.0),
            FigureSpec("total_s", "from the picture to the polished model", 90.0, True),
            FigureSpec("first_shape_s", "from the picture to the first closed shape", 1.5, True),
            FigureSpec("peak_mb", "peak memory", 3000.0, True),
        ),
    ),
    Scenario(
        "autoencoder",
        "What the autoencoder keeps of a picture",
        "benchmarks.autoencoder",
        500,
        "held-out scenes",
        (FigureSpec("autoencoder_psnr_db", "PSNR after encoding and decoding (against PCA)", 30.0),),
    ),
    Scenario(
        "t2i_speed",
        "How long one picture takes, and what it costs",
        "benchmarks.speed",
        7,
        "repeats",
        (
            FigureSpec("seconds_20_steps", "one picture, 256 px, 20 guided steps (against plain diffusers)", 2.0, True),
            FigureSpec("ratio_to_diffusers", "time as a share of plain diffusers' time", 1.0, True),
            FigureSpec("stop_s", "from Stop to a free queue, slowest seen", 1.0, True),
            FigureSpec("peak_mb", "peak memory of a process that loads the page's parts and draws", 2000.0, True),
        ),
    ),
    Scenario(
        "startup",
        "From the command to the first picture, with warm file cache",
        "benchmarks.startup",
        3,
        "starts",
        (
            FigureSpec("page_ready_s", "`python app.py` to the page", 6.0, True),
            FigureSpec("first_picture_s", "`python app.py` to the first finished picture", 10.0, True),
        ),
    ),
)


def find_scenario(name: str) -> Scenario:
    """Find a scenario by its name.

    Raises: ValueError naming the scenarios there are.
    """
    for scenario in SCENARIOS:
        if scenario.name == name:
            return scenario
    raise ValueError(f"unknown scenario {name!r}; choose one of {', '.join(entry.name for entry in SCENARIOS)}")
