/** Swagger UI as a person sees it: operations, their parameters, the Execute button, the answer. */
import type { Locator, Page } from 'playwright-core';

/** A response as Swagger UI shows it. */
export interface ShownResponse {
  readonly status: number;
  header(name: string): string | undefined;
  // Each step asserts what it expects of a body.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly body: any;
}

/** The block of one operation, opened. */
export async function openOperation(page: Page, tag: string, id: string): Promise<Locator> {
  const block = page.locator(`#operations-${tag}-${id}`);
  await block.scrollIntoViewIfNeeded();
  const isOpen = /\bis-open\b/.test((await block.getAttribute('class')) ?? '');
  if (!isOpen) await block.locator('.opblock-summary-control').click();
  await block.locator('button.execute').waitFor();
  return block;
}

export function fillParameter(block: Locator, name: string, value: string): Promise<void> {
  const field = block.locator(`tr[data-param-name="${name}"]`).locator('input, select, textarea');
  return field.first().fill(value);
}

/** Presses Execute and reads the response where a person reads it. */
export async function execute(block: Locator): Promise<ShownResponse> {
  const table = block.locator('.live-responses-table');
  const clearButton = block.locator('button.btn-clear');
  if (await clearButton.count()) await clearButton.click();
  await table.waitFor({ state: 'detached' });
  await block.locator('button.execute').click();
  await table.waitFor();
  await table.scrollIntoViewIfNeeded();
  const status = await table.locator('tbody .response-col_status').first().innerText();
  const texts = await table.locator('tbody pre').allInnerTexts();
  const headers = texts.find(isHeaderList) ?? '';
  const json = texts.find((text) => text.trimStart().startsWith('{'));
  return {
    status: Number(status),
    header: (name) => new RegExp(`^\\s*${name}: (.*?)\\s*$`, 'im').exec(headers)?.[1],
    body: json === undefined ? undefined : (JSON.parse(json) as unknown),
  };
}

const isHeaderList = (text: string): boolean =>
  /^\s*[a-z-]+: /im.test(text) && text.includes('x-request-id');

/** Enters the token in the dialog behind the Authorize button. */
export async function authorize(page: Page, token: string): Promise<void> {
  await page.locator('.auth-wrapper button.authorize').click();
  const dialog = page.locator('.dialog-ux');
  await dialog.locator('input').fill(token);
  await dialog.locator('button.authorize').click();
  await dialog.locator('button.btn-done').click();
  await dialog.waitFor({ state: 'detached' });
}
