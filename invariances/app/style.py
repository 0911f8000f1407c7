"""One look for all pages, in light and dark."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw

LOGO = (
    "<svg xmlns='http://www.w3.org/2000/svg' width='150' height='28' viewBox='0 0 150 28'>"
    "<g fill='none' stroke='#0e7490' stroke-width='2.4'><circle cx='10' cy='14' r='7.5'/>"
    "<circle cx='17' cy='14' r='7.5' stroke='#d97706'/></g>"
    "<text x='32' y='19' font-family='system-ui, sans-serif' font-size='16' font-weight='600' fill='#0f8fab'>"
    "invariances</text></svg>"
)


@cache
def icon() -> Image.Image:
    """The browser tab's picture, drawn here so that no address is asked for it."""
    canvas = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((4, 14, 40, 50), outline="#0e7490", width=6)
    draw.ellipse((24, 14, 60, 50), outline="#d97706", width=6)
    return canvas


CSS = """<style>
.stMainBlockContainer, .block-container { padding-top: 4.6rem; max-width: 1180px; }
.stMainBlockContainer [data-testid="stVerticalBlock"] { gap: .75rem; }
.inv-title { font-size: 1.65rem; font-weight: 650; padding: 0; margin: 0; letter-spacing: -.01em; }
.inv-lead { font-size: 1rem; opacity: .78; margin: .15rem 0 .3rem; max-width: 62rem; line-height: 1.5; }
.inv-head { font-size: 1.02rem; font-weight: 620; margin: .5rem 0 .1rem; }
.inv-note { font-size: .86rem; opacity: .7; margin: 0 0 .35rem; max-width: 60rem; line-height: 1.45; }
.inv-row { display: grid; gap: 10px; justify-content: start;
  grid-template-columns: repeat(var(--columns), minmax(0, var(--side))); }
.inv-row figure, .inv-sum figure, .inv-table figure { margin: 0; }
.inv-row img, .inv-sum img, .inv-table img { width: 100%; aspect-ratio: 1; image-rendering: pixelated; display: block;
  border-radius: 6px; background: rgba(128, 128, 128, .12); }
.inv-row img.smooth, .inv-sum img.smooth, .inv-table img.smooth { image-rendering: auto; }
figcaption { font-size: .78rem; line-height: 1.3; opacity: .75; margin-top: .25rem; text-align: center;
  overflow-wrap: anywhere; }
.inv-sum { display: flex; align-items: center; gap: 10px; flex-wrap: nowrap; max-width: 640px; }
.inv-sum figure { flex: 1 1 0; min-width: 0; }
.inv-sum span { font-size: 1.5rem; opacity: .6; flex: none; margin-bottom: 1.2rem; }
.inv-table { overflow-x: auto; }
.inv-table table { border-collapse: separate; border-spacing: 6px; }
.inv-table td, .inv-table th { padding: 0; border: 0; vertical-align: middle; font-weight: 500; font-size: .82rem; }
.inv-table td.cell { vertical-align: top; width: var(--side, 104px); min-width: min(64px, 17vw); }
.inv-table td.own img { box-shadow: 0 0 0 2px #0e7490; }
.inv-table td.diagonal img { box-shadow: 0 0 0 2px #d97706; }
.inv-layer { display: grid; grid-template-columns: 128px 1fr; gap: 14px; padding: 12px 0; align-items: center;
  border-top: 1px solid rgba(128, 128, 128, .25); }
.inv-layer b { font-size: .98rem; }
.inv-layer small { display: block; opacity: .7; font-size: .78rem; line-height: 1.4; }
.inv-bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 3px 10px; align-items: center;
  font-size: .82rem; max-width: 640px; }
.inv-bars .name { grid-row: span 2; font-weight: 550; }
.inv-bars .track { background: rgba(128, 128, 128, .16); border-radius: 4px; height: 10px; overflow: hidden; }
.inv-bars .fill { height: 100%; border-radius: 4px; min-width: 2px; }
.inv-a { background: #d97706; } .inv-b { background: #0e7490; }
.inv-key { font-size: .8rem; opacity: .8; margin: .1rem 0 .4rem; }
.inv-key i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin: 0 5px 0 12px; }
.inv-key i:first-child { margin-left: 0; }
.inv-meters { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 280px)); gap: 10px 26px; }
.inv-meter .line { display: flex; justify-content: space-between; font-size: .88rem; font-weight: 550; gap: 8px; }
.inv-meter .track { position: relative; background: rgba(128, 128, 128, .18); border-radius: 4px; height: 8px;
  margin: 4px 0; }
.inv-meter .fill { height: 100%; border-radius: 4px; background: #0e7490; }
.inv-meter .mark { position: absolute; top: -3px; width: 2px; height: 14px; background: #d97706; }
.inv-meter small { font-size: .76rem; opacity: .7; line-height: 1.35; display: block; }
.inv-guess { display: grid;
  grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 8px 14px; max-width: 760px; }
.inv-guess h4 { font-size: .86rem; margin: 0 0 .2rem; padding: 0; font-weight: 600; }
.inv-guess div.p { display: grid; grid-template-columns: 1fr max-content; font-size: .84rem; position: relative;
  padding: 2px 6px; border-radius: 4px; margin-bottom: 2px; gap: 8px; }
[class*="st-key-card-"] { position: relative; }
[class*="st-key-card-"] img { width: 100%; image-rendering: pixelated; border-radius: 6px; display: block; }
[class*="st-key-card-"] a::after { content: ""; position: absolute; inset: 0; }
[class*="st-key-card-"] * { position: static !important; }
[class*="st-key-tile-"] button { width: 58px; height: 58px; min-height: 58px; padding: 0; border-radius: 8px;
  background-size: cover; image-rendering: pixelated; border: 1px solid rgba(128, 128, 128, .3); }
[class*="st-key-tile-"] button p { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); }
[class*="st-key-tile-"] button:focus-visible { outline: 2px solid #0e7490; outline-offset: 2px; }
[class*="st-key-working"] { border: 1px solid rgba(128, 128, 128, .3); border-radius: 8px; padding: .6rem .9rem; }
.inv-spin { display: inline-block; width: 14px; height: 14px; border-radius: 50%; vertical-align: -2px;
  border: 2px solid rgba(128, 128, 128, .35); border-top-color: #0e7490; margin-right: 9px;
  animation: inv-turn .8s linear infinite; }
@keyframes inv-turn { to { transform: rotate(360deg); } }
@media (prefers-reduced-motion: reduce) { .inv-spin { animation: none; } }
[data-testid="stVideo"] { image-rendering: pixelated; max-width: 384px; border-radius: 6px; }
@media (max-width: 640px) {
  .stMainBlockContainer, .block-container { padding-left: 1rem; padding-right: 1rem; }
  .inv-title { font-size: 1.35rem; }
  .inv-row { grid-template-columns: repeat(auto-fill, min(var(--side), 27vw)); }
  .inv-layer .inv-row { grid-template-columns: repeat(4, 1fr); }
  .inv-layer { grid-template-columns: 1fr; gap: 6px; }
  .inv-table td.cell { width: 18vw; min-width: 18vw; max-width: 18vw; }
  [class*="st-key-tile-"] button { width: 48px; height: 48px; min-height: 48px; }
}
</style>"""

PASTE = """<script>
if (!window.invariancesPaste) {
  window.invariancesPaste = true;
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    const field = () => document.querySelector(".st-key-upload input[type=file]");
    const give = (tries) => {
      const input = field();
      if (!input) {
        if (tries) setTimeout(() => give(tries - 1), 100);
        return;
      }
      const held = new DataTransfer();
      files.forEach((file) => held.items.add(file));
      input.files = held.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    };
    if (!field()) document.querySelector(".st-key-tiles [data-testid=stPopover] button")?.click();
    give(30);
  });
}
</script>"""
"""Pictures that are pasted anywhere on the page go to the field for uploads."""
