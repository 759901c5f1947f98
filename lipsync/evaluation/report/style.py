"""Style sheet and frame of the pages: both themes, phone and print, nothing loaded from elsewhere."""

from __future__ import annotations

from html import escape

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --wash: #f5f6f8; --card: #ffffff; --ink: #14181f; --soft: #5b6472; --faint: #8b94a3;
  --rule: #e3e6eb; --rule2: #cfd4dc; --accent: #2f5fd0; --near: #2f5fd0; --far: #dd8a0b; --fine: #e8effc;
  --good: #0b7a53; --goodwash: #e6f5ee; --bad: #b3261e; --badwash: #fdecea; --warn: #8a5a00;
  --warnwash: #fff5db; --s0: #2f5fd0; --s1: #0f9467; --s2: #d0521f; --s3: #8b4fc6; --s4: #b58a00;
  --s5: #0c8ea8; --s6: #c23a77; --s7: #68717f }
@media (prefers-color-scheme: dark) { :root {
  --paper: #0f1216; --wash: #161a20; --card: #161a20; --ink: #e8ebf0; --soft: #a3acba; --faint: #7a8494;
  --rule: #262c35; --rule2: #39414d; --accent: #86a9ff; --near: #7ea2fb; --far: #f0ad4a; --fine: #1b2740;
  --good: #57d3a1; --goodwash: #12291f; --bad: #ff8d84; --badwash: #35191a; --warn: #f3c969;
  --warnwash: #2f2711; --s0: #7ea2fb; --s1: #45c795; --s2: #f2875a; --s3: #bd92f0; --s4: #e0bb4c;
  --s5: #4fc3db; --s6: #f07fb0; --s7: #9aa4b2 } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", sans-serif;
  font-feature-settings: "tnum" }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 28px }
header { padding-top: 44px }
.over { color: var(--soft); font-size: 12.5px; letter-spacing: .09em; text-transform: uppercase; margin: 0 }
h1 { font-size: 31px; line-height: 1.2; letter-spacing: -.018em; margin: 6px 0 8px;
  overflow-wrap: anywhere }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 52px 0 6px; padding-top: 18px;
  border-top: 1px solid var(--rule) }
h3 { font-size: 15px; margin: 26px 0 10px } h4 { font-size: 14px; margin: 0 0 4px; overflow-wrap: anywhere }
p { margin: 0 0 12px; max-width: 78ch } .lead { color: var(--soft); font-size: 16px }
small { font-size: 11.5px; color: var(--soft); font-weight: 400 }
code, pre { font: 12.5px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
pre { background: var(--wash); border: 1px solid var(--rule); border-radius: 8px; padding: 14px 16px;
  overflow-x: auto; margin: 0 }
.chips { display: flex; flex-wrap: wrap; gap: 8px; margin: 16px 0 0; padding: 0; list-style: none }
.chips li { border: 1px solid var(--rule2); border-radius: 99px; padding: 3px 12px; font-size: 13px }
.chips b { font-weight: 600 } .chips span { color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 20px 0 0; font-size: 13.5px }
a { color: var(--accent); text-decoration: none } a:hover { text-decoration: underline }
.box { border-radius: 8px; padding: 12px 16px; margin: 16px 0; border: 1px solid; border-left-width: 5px }
.box p:last-child { margin: 0 } .box.red { background: var(--badwash); border-color: var(--bad) }
.box.red strong { color: var(--bad); display: block; font-size: 16px; margin-bottom: 2px }
.box.note { background: var(--warnwash); border-color: var(--far) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(176px, 1fr)); gap: 12px;
  margin: 28px 0 0 }
.figure { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 13px 16px 12px; min-width: 0 }
.figure .name { color: var(--soft); font-size: 12.5px; display: block }
.figure .value { font-size: 27px; font-weight: 620; letter-spacing: -.02em; line-height: 1.25;
  display: block }
.figure small { display: block } .figure.muted .value { color: var(--faint) }
.gauge { position: relative; height: 5px; border-radius: 3px; margin: 13px 0 5px;
  background: linear-gradient(90deg, var(--s2), var(--rule2) 50%, var(--s1)) }
.gauge i { position: absolute; top: -4px; width: 13px; height: 13px; margin-left: -6.5px;
  border-radius: 50%;
  background: var(--ink); border: 2px solid var(--card) }
.ends { display: flex; justify-content: space-between; font-size: 11px; color: var(--soft) }
.scroll { overflow-x: auto; margin: 14px 0 0; scrollbar-width: thin }
table { border-collapse: separate; border-spacing: 0; font-size: 13.5px; width: 100% }
.caption { color: var(--soft); font-size: 13px; max-width: 108ch; margin: 8px 0 0 }
th, td { padding: 7px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule) }
thead th { font-weight: 600; vertical-align: bottom; border-bottom-color: var(--rule2); font-size: 12.5px }
th small, td small { display: block; white-space: nowrap; line-height: 1.4 }
.num { text-align: right; font-variant-numeric: tabular-nums } td.num { white-space: nowrap }
th.group { text-align: center; color: var(--soft); font-size: 11.5px; letter-spacing: .06em;
  text-transform: uppercase; border-left: 1px solid var(--rule); padding: 4px 10px }
.first { border-left: 1px solid var(--rule) } .arrow { color: var(--faint); font-weight: 400 }
.stick { position: sticky; left: 0; background: var(--paper); z-index: 1; min-width: 128px }
.systems { width: auto } .systems th.num { min-width: 104px } .systems .stick { min-width: 218px }
.systems tbody th { font-weight: 600; line-height: 1.35 } .systems td b { font-weight: 560 }
tr.ceiling > * { background: var(--goodwash); border-bottom-color: var(--rule2) }
tr.floor > *, tr.check > * { background: var(--wash) }
tr.floor > * { border-top: 1px solid var(--rule2) }
.tag { font-size: 10.5px; font-weight: 600; letter-spacing: .03em; border-radius: 4px; padding: 1px 6px;
  margin-left: 7px; border: 1px solid var(--rule2); color: var(--soft); white-space: nowrap }
.tag.ceiling { color: var(--good); border-color: var(--good) }
.tag.floor { color: var(--s2); border-color: var(--s2) }
.key { display: inline-block; width: 9px; height: 9px; border-radius: 3px; margin-right: 8px;
  background: var(--c) }
td.best b { color: var(--good); font-weight: 750 } .star { font-size: 11px; margin-right: 4px }
td.none, td.muted, td.muted b, .muted dd { color: var(--faint); font-weight: 400 }
th.muted { color: var(--faint) } div.muted { opacity: .55 }
.differences { width: auto } .differences th, .differences td { padding: 7px 6px }
.differences td { min-width: 156px; font-variant-numeric: tabular-nums }
.differences td b { font-weight: 600 }
.failed, tr.bad .why { color: var(--bad) }
td.better .verdict { color: var(--good); font-weight: 650 }
td.worse .verdict { color: var(--bad); font-weight: 650 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr));
  gap: 22px 30px; margin-top: 16px }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)) }
figure { margin: 0; min-width: 0 } figcaption { font-size: 13.5px; font-weight: 600; margin-bottom: 4px }
figcaption small { margin-left: 6px }
.chart { display: block; width: 100%; height: auto; overflow: visible }
.chart text { font-size: 11px; fill: var(--soft) } .chart .label { font-size: 12px; fill: var(--ink) }
.chart .tick { font-size: 10.5px } .grid line.grid, .chart .grid { stroke: var(--rule); stroke-width: 1 }
.chart .axis { stroke: var(--rule2) } .chart .area { fill: var(--c); opacity: .26 }
.chart .dots { stroke: var(--c); stroke-width: 3; stroke-linecap: round; opacity: .5; fill: none }
.chart .whisker { stroke: var(--c); stroke-width: 4 }
.chart .few { stroke-width: 4.5; opacity: .65 } .chart .zero { stroke: var(--faint) }
.chart.forest { width: 150px; margin: 3px 0 1px; --c: var(--faint) }
td.better .forest { --c: var(--good) } td.worse .forest { --c: var(--bad) }
.chart .mean { fill: var(--card); stroke: var(--c); stroke-width: 2.4 }
.chart .near { fill: var(--near) } .chart .far { fill: var(--far) } .chart rect.fine { fill: var(--fine) }
.chart circle { fill-opacity: .85 } .chart circle.mean { fill-opacity: 1 }
.chart .curve { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round }
.chart .under { fill: var(--accent); opacity: .13 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 14px }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px;
  display: grid; grid-template-columns: 92px 1fr; gap: 10px 14px; align-content: start;
  break-inside: avoid }
.card > .chart, .card > div.muted { grid-column: 1 / -1 }
.thumb { width: 92px; height: 92px; object-fit: cover; border-radius: 7px; background: var(--rule) }
.body { min-width: 0 } .flag { font-size: 11.5px; font-weight: 600; border-radius: 4px; padding: 1px 7px }
.flag.fine { background: var(--fine); color: var(--accent) }
.flag.off, tr.off .offset { background: var(--warnwash); color: var(--warn); font-weight: 600 }
.facts { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px 12px; margin: 8px 0 0 }
.facts dt { font-size: 11px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
  color: var(--soft); line-height: 1.3 }
.facts dd { margin: 0; font-weight: 600; font-size: 13.5px; line-height: 1.35 }
details { border: 1px solid var(--rule); border-radius: 8px; margin: 10px 0; background: var(--card) }
summary { cursor: pointer; padding: 10px 14px; font-weight: 600 } summary small { margin-left: 8px }
details .scroll { margin: 0; padding: 0 14px 12px; max-height: 620px; overflow: auto }
details table { font-size: 12.5px } details th, details td { padding: 4px 9px; white-space: nowrap }
details thead th { position: sticky; top: 0; background: var(--card); z-index: 2 }
details .stick { background: var(--card); font-weight: 400; white-space: normal; overflow-wrap: anywhere;
  min-width: 190px } details thead .stick { z-index: 3 }
tr.bad > * { background: var(--badwash) } tr.bad .why { white-space: normal }
small.why { white-space: normal; max-width: 46ch }
.legend { font-size: 12.5px; color: var(--soft) } .legend i { display: inline-block; width: 11px;
  height: 11px;
  border-radius: 3px; margin: 0 5px 0 12px; vertical-align: -1px; border: 1px solid var(--rule2) }
  .legend i:first-child { margin-left: 0 }
.reasons { padding-left: 20px; margin: 8px 0; font-size: 14px } .reasons li { margin-bottom: 4px;
  overflow-wrap: anywhere }
dl.terms { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 6px 22px;
  margin: 12px 0 }
.terms dt { font-weight: 600 } .terms dd { margin: 0; color: var(--soft); overflow-wrap: anywhere }
footer { color: var(--faint); font-size: 12.5px; padding-top: 40px; padding-bottom: 48px }
@media (max-width: 640px) { main, header, footer { padding-left: 16px; padding-right: 16px }
  header { padding-top: 26px } h1 { font-size: 25px } .figures { grid-template-columns: 1fr 1fr; gap: 9px }
  .figure { padding: 11px 12px } .figure .value { font-size: 23px } dl.terms { grid-template-columns: 1fr;
  gap: 0 } .terms dd { margin-bottom: 10px } .wide text { font-size: 13px } .wide .label { font-size: 13.5px }
  .wide .tick { font-size: 12.5px } .systems .stick { min-width: 104px; max-width: 136px }
  th.group { text-align: left } .tag { margin-left: 0; display: table } details .stick { min-width: 140px } }
@media print { :root { --paper: #fff; --card: #fff } body { font-size: 10.5pt } header { padding-top: 0 }
  nav { display: none } h2 { break-after: avoid } figure, .card, .figure, tr { break-inside: avoid }
  .grid { grid-template-columns: 1fr 1fr } .grid.small, .cards { grid-template-columns: 1fr 1fr 1fr }
  .figures { grid-template-columns: repeat(6, 1fr) } .figure .value { font-size: 15pt }
  h2 { margin-top: 26px } h3, .caption { break-after: avoid }
  .scroll, details .scroll { overflow: visible; max-height: none } table { font-size: 8.5pt }
  th, td { padding: 3px 5px } .stick { position: static; min-width: 0 }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
""" + "".join(f".s{i} {{ --c: var(--s{i}) }}\n" for i in range(8))


def page(title: str, head: str, body: str) -> str:
    """A complete HTML document."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f"<header>{head}</header>\n<main>\n{body}\n</main>\n"
        "<footer>Written by lipsync. This page loads nothing and runs no scripts.</footer>\n</body></html>\n"
    )


def section(anchor: str, title: str, body: str, lead: str = "") -> str:
    """A part of a page; empty when there is nothing in it."""
    if not body:
        return ""
    intro = f"<p>{escape(lead)}</p>" if lead else ""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{intro}\n{body}\n</section>'


def figure(title: str, chart: str, muted: bool = False, note: str = "") -> str:
    """A chart with its title; ``muted`` where it must not be read as a ranking."""
    small = f"<small>{escape(note)}</small>" if note else ""
    body = f'<div class="muted">{chart}</div>' if muted else chart
    return f"<figure><figcaption>{escape(title)}{small}</figcaption>{body}</figure>"


def box(kind: str, text: str, title: str = "") -> str:
    """A paragraph that must not be overlooked; ``kind`` is ``red`` or ``note``."""
    strong = f"<strong>{escape(title)}</strong>" if title else ""
    return f'<div class="box {kind}"><p>{strong}{escape(text)}</p></div>'


def terms(pairs: dict[str, str]) -> str:
    """A list of names and what they mean."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs.items())
    return f'<dl class="terms">{items}</dl>' if items else ""


def chips(pairs: dict[str, str]) -> str:
    """Short facts in a row."""
    items = "".join(f"<li><span>{escape(k)}</span> <b>{escape(v)}</b></li>" for k, v in pairs.items() if v)
    return f'<ul class="chips">{items}</ul>'
