/** The few pages for people, as HTML without scripts. */

export const HTML = 'text/html; charset=utf-8';

const STYLE = [
  'body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem}',
  'body{color:#1b2733}',
  'code{background:#eef2f6;padding:.1em .3em}',
  'a{color:#0b5cad}',
].join('');

export const escapeHtml = (text: string): string =>
  text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);

/**
 * @param title text
 * @param body HTML
 */
export const htmlPage = (title: string, body: string): string =>
  [
    '<!doctype html><html lang="en"><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width">',
    `<title>${escapeHtml(title)}</title><style>${STYLE}</style><body>${body}</body></html>`,
  ].join('');
