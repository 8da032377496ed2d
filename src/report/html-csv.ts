/** Reads back the tables that runs leave: table.csv (RFC 4180) and the table of table.md. */

export interface TextTable {
  columns: string[];
  rows: string[][];
}

/** Fields of all records; undefined where the text is no CSV (an open quote, text after a closing one). */
function csvRecords(text: string): string[][] | undefined {
  const records: string[][] = [];
  const special = /[",\r\n]/g;
  let record: string[] = [];
  for (let at = 0; at < text.length; ) {
    let field = '';
    if (text[at] === '"') {
      for (;;) {
        const end = text.indexOf('"', at + 1);
        if (end < 0) return undefined;
        field += text.slice(at + 1, end);
        at = end + 1;
        if (text[at] !== '"') break;
        field += '"';
      }
    } else {
      special.lastIndex = at;
      const stop = special.exec(text)?.index ?? text.length;
      if (text[stop] === '"') return undefined;
      field = text.slice(at, stop);
      at = stop;
    }
    record.push(field);
    if (text[at] === ',') {
      at++;
      if (at < text.length && text[at] !== '\n' && text[at] !== '\r') continue;
      record.push(''); // the line ends with a comma
    }
    if (text[at] === '\r') at++;
    if (at < text.length && text[at] !== '\n') return undefined;
    at++;
    records.push(record);
    record = [];
  }
  return records;
}

/** A table with a header line and lines of equal width; undefined where the text is anything else. */
export function parseCsv(text: string): TextTable | undefined {
  const [columns, ...rows] = csvRecords(text) ?? [];
  if (columns === undefined || new Set(columns).size !== columns.length) return undefined;
  return rows.every((row) => row.length === columns.length) ? { columns, rows } : undefined;
}

const splitRow = (line: string): string[] =>
  line
    .slice(1, -1)
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll('\\|', '|'));

/** The first Markdown table of a text: what renderMarkdown wrote. */
export function parseMarkdownTable(text: string): (TextTable & { right: boolean[] }) | undefined {
  const lines = text.split('\n').filter((line) => line.startsWith('|') && line.endsWith('|'));
  const [columns, rule, ...rows] = lines.map(splitRow);
  if (columns === undefined || rule === undefined || !rule.every((cell) => /^-+:?$/.test(cell)))
    return undefined;
  if (rule.length !== columns.length || rows.some((row) => row.length !== columns.length)) return undefined;
  return { columns, rows, right: rule.map((cell) => cell.endsWith(':')) };
}
