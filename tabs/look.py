"""How the page looks: theme colours, style sheet and the page's own script, all served from this machine.

Nothing here names an outside host: the letters are the ones that gradio ships, then those of the system.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.themes.utils.colors import Color
from gradio.themes.utils.fonts import LocalFont

STYLE = Path(__file__).with_name("look.css")
SCRIPT = Path(__file__).with_name("look.js")
ICON = Path(__file__).with_name("look.png")
MAX_UPLOAD = "10mb"

LIME = Color(
    name="lime_light",
    c50="#f7fce3",
    c100="#eef9c4",
    c200="#e2f594",
    c300="#d5f06a",
    c400="#c9ea48",
    c500="#b4d62e",
    c600="#87a515",
    c700="#5d7410",
    c800="#485911",
    c900="#3a4713",
    c950="#1e2706",
)
PAPER = Color(
    name="paper",
    c50="#faf9f5",
    c100="#f3f1ea",
    c200="#e6e3d8",
    c300="#cfcbbd",
    c400="#a09c8e",
    c500="#757264",
    c600="#57554a",
    c700="#3c3b33",
    c800="#25251f",
    c900="#191914",
    c950="#10100c",
)
LETTERS = (
    LocalFont("IBM Plex Sans", weights=(400, 700)),
    LocalFont("Montserrat", weights=(700,)),  # the name in the header
    "ui-sans-serif",
    "system-ui",
    "sans-serif",
)
NUMBERS = (LocalFont("IBM Plex Mono", weights=(400, 600)), "ui-monospace", "Consolas", "monospace")

COLOURS = MappingProxyType(
    {
        "body_background_fill": "*neutral_100",
        "body_background_fill_dark": "*neutral_950",
        "body_text_color": "*neutral_900",
        "body_text_color_dark": "#efeee5",
        "body_text_color_subdued": "*neutral_600",
        "body_text_color_subdued_dark": "*neutral_400",
        "background_fill_primary": "#ffffff",
        "background_fill_primary_dark": "*neutral_900",
        "background_fill_secondary": "*neutral_50",
        "background_fill_secondary_dark": "*neutral_800",
        "border_color_primary": "*neutral_200",
        "border_color_primary_dark": "#33332a",
        "block_background_fill": "#ffffff",
        "block_background_fill_dark": "*neutral_900",
        "block_border_width": "1px",
        "block_radius": "14px",
        "block_shadow": "none",
        "block_label_background_fill": "transparent",
        "block_label_background_fill_dark": "transparent",
        "block_label_border_width": "0px",
        "block_title_text_color": "*neutral_900",
        "block_title_text_color_dark": "#efeee5",
        "block_title_text_weight": "600",
        "block_info_text_color": "*neutral_600",
        "block_info_text_color_dark": "*neutral_400",
        "input_background_fill": "*neutral_50",
        "input_background_fill_dark": "*neutral_950",
        "input_border_color": "*neutral_300",
        "input_border_color_dark": "#3d3d33",
        "input_border_color_focus": "*primary_700",
        "input_border_color_focus_dark": "*primary_400",
        "input_border_width": "1px",
        "input_radius": "10px",
        "input_placeholder_color": "*neutral_500",
        "input_placeholder_color_dark": "*neutral_500",
        "button_border_width": "1px",
        "button_border_width_dark": "1px",
        "button_large_radius": "999px",
        "button_medium_radius": "999px",
        "button_small_radius": "999px",
        "button_large_text_weight": "600",
        "button_medium_text_weight": "600",
        "button_small_text_weight": "400",
        "button_primary_background_fill": "*neutral_900",
        "button_primary_background_fill_dark": "*primary_300",
        "button_primary_background_fill_hover": "*neutral_700",
        "button_primary_background_fill_hover_dark": "*primary_200",
        "button_primary_border_color": "*neutral_900",
        "button_primary_border_color_dark": "*primary_300",
        "button_primary_text_color": "*primary_300",
        "button_primary_text_color_dark": "*neutral_950",
        "button_secondary_background_fill": "#ffffff",
        "button_secondary_background_fill_dark": "*neutral_900",
        "button_secondary_background_fill_hover": "*primary_100",
        "button_secondary_background_fill_hover_dark": "*neutral_800",
        "button_secondary_border_color": "*neutral_300",
        "button_secondary_border_color_dark": "#45453a",
        "button_secondary_text_color": "*neutral_900",
        "button_secondary_text_color_dark": "#efeee5",
        "button_cancel_background_fill": "transparent",
        "button_cancel_background_fill_dark": "transparent",
        "button_cancel_background_fill_hover": "#fbe3df",
        "button_cancel_background_fill_hover_dark": "#3a1714",
        "button_cancel_border_color": "#d9a49b",
        "button_cancel_border_color_dark": "#6d3a33",
        "button_cancel_text_color": "#a3291a",
        "button_cancel_text_color_dark": "#ff9d8f",
        "checkbox_background_color_selected": "*primary_700",
        "checkbox_background_color_selected_dark": "*primary_400",
        "checkbox_border_color_selected": "*primary_700",
        "checkbox_border_color_selected_dark": "*primary_400",
        "checkbox_label_background_fill": "transparent",
        "checkbox_label_background_fill_dark": "transparent",
        "checkbox_label_border_width": "0px",
        "slider_color": "*primary_700",
        "slider_color_dark": "*primary_400",
        "loader_color": "*primary_500",
        "color_accent": "*primary_600",
        "color_accent_soft": "*primary_100",
        "color_accent_soft_dark": "*neutral_800",
        "link_text_color": "*primary_700",
        "link_text_color_dark": "*primary_300",
        "accordion_text_color": "*neutral_900",
        "accordion_text_color_dark": "#efeee5",
    }
)


def make_theme() -> gr.themes.Base:
    """Make the theme: warm paper by day, a dark theatre by night, one lime light in both."""
    theme = gr.themes.Base(primary_hue=LIME, secondary_hue=LIME, neutral_hue=PAPER, font=LETTERS, font_mono=NUMBERS)
    return theme.set(**COLOURS)


def make_head(*, is_stage: bool) -> str:
    """Give the page's own style and script; `is_stage` opens every page for a projector, as ?stage=1 does for one.

    The style goes into the head because gradio rewrites a sheet handed to `css`: no rule could then see <html>.
    """
    return (
        '<meta name="color-scheme" content="light dark">'
        f"<style>{STYLE.read_text('utf-8')}</style>"
        f"<script>window.limelight = {json.dumps({'stage': is_stage})};\n{SCRIPT.read_text('utf-8')}</script>"
    )


def launch_options(*, is_stage: bool) -> dict[str, Any]:
    """Give gradio everything about looks and limits: no sharing, no history, no monitoring, small uploads."""
    return {
        "theme": make_theme(),
        "head": make_head(is_stage=is_stage),
        "favicon_path": str(ICON),
        "footer_links": ["api"],
        "max_file_size": MAX_UPLOAD,
        "share": False,
        "inbrowser": False,
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "quiet": True,
    }
