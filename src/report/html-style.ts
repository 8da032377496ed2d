/** The report page's style: one column, tables that scroll by themselves, dark or light as the reader's system is. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --bg: #fbfbfa; --card: #fff; --text: #1d1f21; --soft: #62666b; --line: #dcdfe3; --head: #f1f2f4;
  --accent: #a8324a; --warn-bg: #fff5dc; --warn-line: #d99a1b; --paper: #7a5a1e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #16181a; --card: #1e2124; --text: #e4e6e8; --soft: #a0a5ab; --line: #363b40; --head: #272b2f;
    --accent: #f08a9d; --warn-bg: #33290f; --warn-line: #c08a1e; --paper: #d9b56a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--bg); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Helvetica, Arial, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 0 0 .15rem; line-height: 1.3; }
h3 { font-size: .95rem; margin: 1.6rem 0 .4rem; }
p { margin: .4rem 0; }
a { color: var(--accent); }
.soft { color: var(--soft); }
.run, .block { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1.25rem 1.4rem; margin-top: 1.5rem; }
.scroll {
  overflow-x: auto; max-width: 100%; /* a shade at the right edge while there is more to the right */
  background: linear-gradient(var(--card), var(--card)) right / 1.2rem 100% no-repeat local, linear-gradient(90deg, transparent, var(--line)) right / 1.2rem 100% no-repeat scroll;
}
section > .scroll { margin: .7rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .28rem .65rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { background: var(--head); font-weight: 600; white-space: normal; vertical-align: bottom; }
.right { text-align: right; }
tr.paper td { color: var(--paper); font-style: italic; }
tr.paper td.name { padding-left: 1.8rem; }
td.wrap { white-space: normal; min-width: 9rem; }
pre { background: var(--head); border-radius: 6px; padding: .6rem .8rem; margin: .7rem 0; font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.warn { background: var(--warn-bg); border-left: 4px solid var(--warn-line); border-radius: 0 6px 6px 0; padding: .45rem .8rem; margin: .5rem 0; }
figure { margin: .8rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); font-size: .85rem; }
details { margin-top: .9rem; }
summary { cursor: pointer; color: var(--accent); }
dl { display: grid; grid-template-columns: fit-content(38%) 1fr; gap: .15rem 1.2rem; margin: .5rem 0; font-size: .9rem; }
dt { color: var(--soft); overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; } .run, .block { break-inside: avoid; } }
`;
