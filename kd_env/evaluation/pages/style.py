"""The style sheet of a report: for phones, for paper, for light and dark screens."""

STYLE = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #f3f3f1; --line: #c9c9c4; --link: #0b4f8a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --paper: #16181a; --soft: #23272a; --line: #4a4f54; --link: #8ec5ff; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 0 1rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.1rem; font-weight: 600; margin: 1rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
.registration { margin: 1rem 0 0; padding: .5rem .75rem; border: 1px solid var(--line); font-size: .9rem; }
.registration.departed { border: 3px double currentColor; }
.registration p, .registration ul { margin: 0; }
.verdict { border: 1px solid var(--line); border-left: .5rem solid var(--ink); background: var(--soft);
  padding: .75rem 1rem; margin: 0 0 .75rem; }
.verdict.level { border-left-style: double; }
.verdict.behind { border-left-style: dotted; }
.verdict .short { font-size: 1.45rem; line-height: 1.25; font-weight: 700; margin: 0 0 .5rem; }
.verdict .about { display: block; font-size: .85rem; font-weight: 400; }
details.verdict > summary { font-size: 1rem; font-weight: 600; }
.verdict summary .about { display: inline; font-size: 1rem; }
.verdict summary .much { font-weight: 400; font-variant-numeric: tabular-nums; }
dl { margin: 0; }
dt { font-weight: 600; font-size: .85rem; }
dd { margin: 0 0 .4rem; }
details { font-size: .9rem; }
nav ol { columns: 2 9rem; column-gap: 2rem; padding-left: 1.5rem; font-size: .9rem; }
nav li { break-inside: avoid; }
figure { margin: 1rem 0 1.5rem; padding: .5rem; background: #fff; color: #1a1a1a; border: 1px solid var(--line); }
figure svg { display: block; width: 100%; max-width: 30rem; height: auto; margin: 0 auto; }
figcaption { font-size: .85rem; padding-top: .25rem; }
.box { overflow-x: auto; margin: 1rem 0 .25rem; border: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .35rem .5rem; }
th, td { padding: .3rem .5rem; border-top: 1px solid var(--line); text-align: right; white-space: nowrap;
  overflow-wrap: normal; }
thead th { white-space: normal; vertical-align: bottom; }
th:first-child { text-align: left; white-space: normal; min-width: 7.5rem; }
td.runs { text-align: left; }
.note { font-size: .85rem; margin: 0 0 1rem; }
.left-out { border-left: .25rem dashed currentColor; padding-left: .75rem; }
pre { background: var(--soft); border: 1px solid var(--line); padding: .5rem; font-size: .8rem; white-space: pre-wrap; }
.run { margin: 1rem 0; font-size: .9rem; }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #fff; --line: #888; --link: #000; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  figure, .verdict, .run, tr { break-inside: avoid; }
  .box { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { white-space: normal; padding: .1rem .25rem; }
}
"""
