/** Writes the pages of docs/benchmarks/, for test/bench and for the long checks of test/verify. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { format, resolveConfig } from 'prettier';

const FOLDER = 'docs/benchmarks';

/**
 * Formats a page, writes it and prints where.
 * @param name the file's name without `.md`
 * @returns the page as it was written
 */
export async function writePage(name: string, markdown: string): Promise<string> {
  const file = join(FOLDER, `${name}.md`);
  const page = await format(markdown, { ...(await resolveConfig(file)), parser: 'markdown' });
  await writeFile(file, page);
  console.log(`${page}\nWrote ${file}`);
  return page;
}

/** Writes an image that a page shows. @param fileName e.g. `consistency.svg` */
export const writeImage = (fileName: string, content: string): Promise<void> =>
  writeFile(join(FOLDER, fileName), content);

/**
 * A table in Markdown.
 * @param head the first column is aligned to the left, the others to the right
 */
export function markdownTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  const alignment = head.map((_, index) => (index === 0 ? ':--' : '--:'));
  return [head, alignment, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** 71234 → "71 234", with a space that does not break. */
export const groupDigits = (value: number): string =>
  String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, '\u00a0');
