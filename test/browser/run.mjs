/**
 * `npm run test:browser`: Swagger UI as a person uses it, in Debian's Chromium, against what was built, on an embedded
 * PostgreSQL of its own. Every wait is bounded, everything that was started is stopped, and the last line is `N passed,
 * N failed`. Chromium is installed when it is missing and this user may (root, with apt-get).
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const CHROMIUM = '/usr/bin/chromium';
const ARGUMENTS =
  '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync';
/** Milliseconds: one step in the browser; the service's start, which may unpack a PostgreSQL; all of it. */
const [STEP, START, ALL] = [20_000, 60_000, 400_000];

const say = (line) => process.stdout.write(`${line}\n`);

/** Chromium is there, or is put there, or a line says how. */
function needChromium() {
  if (existsSync(CHROMIUM)) return;
  const advice = `The browser test needs Chromium at ${CHROMIUM}: apt-get install -y --no-install-recommends chromium`;
  const mayInstall = process.getuid?.() === 0 && existsSync('/usr/bin/apt-get');
  if (mayInstall) {
    say('Installing Chromium ...');
    const options = { stdio: ['ignore', 'ignore', 'pipe'], timeout: 600_000 };
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    try {
      execFileSync('apt-get', ['update'], options);
      execFileSync('apt-get', ['install', '-y', '--no-install-recommends', 'chromium'], {
        ...options,
        env,
      });
    } catch (error) {
      say(String(error.stderr ?? error).trim());
    }
  }
  if (existsSync(CHROMIUM)) return;
  say(advice);
  process.exit(1);
}

/** Whatever was started, in the order in which it is stopped; each is stopped, also when one before it fails. */
const started = [];
let stopping;
const stopAll = () =>
  (stopping ??= (async () => {
    for (const stop of started.reverse())
      await stop().catch((error) => say(`while stopping: ${error.message}`));
  })());

const within = (ms, what, promise) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms / 1000} s`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

/** Starts what `npm run build` made; gives its URL. */
async function startService() {
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-browser-data-'));
  started.push(() => rm(dataDir, { recursive: true, force: true }));
  const child = spawn(process.execPath, ['--enable-source-maps', 'dist/src/main.js'], {
    env: {
      PATH: process.env.PATH,
      PORT: '0',
      DATA_DIR: dataDir,
      LOG_FORMAT: 'json',
      SHUTDOWN_GRACE_SECONDS: '1',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  started.push(async () => {
    child.kill('SIGTERM');
    await within(15_000, 'the service ends', ended).catch(() => child.kill('SIGKILL'));
    await ended;
  });
  let printed = '';
  const ready = new Promise((resolve, reject) => {
    child.stdout.on('data', (chunk) => {
      printed += chunk;
      const url = /API (http:\S+)\/v1/.exec(printed)?.[1];
      if (url) resolve(url);
    });
    child.once('exit', (code) => reject(new Error(`the service ended with ${code}:\n${printed}`)));
  });
  return within(START, 'the service is ready', ready);
}

/** A page in a new browser, and what went wrong in it. */
async function openBrowser() {
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: ARGUMENTS.split(' '),
    timeout: 30_000,
  });
  started.push(() => within(STEP, 'the browser closes', browser.close()));
  const page = await browser.newPage({ viewport: { width: 1280, height: 1400 } });
  page.setDefaultTimeout(STEP);
  page.setDefaultNavigationTimeout(STEP);
  const faults = [];
  page.on('console', (message) => {
    // Chromium logs every answer of 400 or more; whether one was expected is for the step that asked to say.
    if (/^Failed to load resource: the server responded with a status of 4/.test(message.text()))
      return;
    if (['error', 'warning'].includes(message.type()))
      faults.push(`console ${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => faults.push(`uncaught: ${error.message}`));
  page.on('requestfailed', (request) =>
    faults.push(`failed: ${request.url()} ${request.failure()?.errorText}`),
  );
  page.on('response', (response) => {
    const { pathname } = new URL(response.url());
    if (response.status() >= 400 && !pathname.startsWith('/v1/'))
      faults.push(`${response.status()} ${pathname}`);
  });
  await page.exposeFunction('reportViolation', (violation) => faults.push(`CSP: ${violation}`));
  await page.addInitScript(() =>
    globalThis.addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) =>
      globalThis.reportViolation(`${violatedDirective} refused ${blockedURI}`),
    ),
  );
  return { page, faults };
}

function equal(actual, expected, what) {
  if (actual !== expected)
    throw new Error(`${what}: ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`);
}

/** One operation of Swagger UI, opened when it is not. */
async function operation(page, tag, id) {
  const block = page.locator(`#operations-${tag}-${id}`);
  await block.scrollIntoViewIfNeeded();
  if (!(await block.evaluate((element) => element.classList.contains('is-open'))))
    await block.locator('.opblock-summary-control').click();
  await block.locator('button.execute').waitFor();
  return block;
}

/** Presses Execute and reads the answer where a person does. */
async function execute(block) {
  const { page, table } = { page: block.page(), table: block.locator('.live-responses-table') };
  const clear = block.locator('button.btn-clear');
  if (await clear.count()) await clear.click();
  await table.waitFor({ state: 'detached' });
  await block.locator('button.execute').click();
  await table.waitFor();
  const status = Number(await table.locator('tbody .response-col_status').first().innerText());
  const texts = await table.locator('tbody pre').allInnerTexts();
  const headers =
    texts.find((text) => /^\s*[a-z-]+: /im.test(text) && text.includes('x-request-id')) ?? '';
  const json = texts.find((text) => text.trimStart().startsWith('{'));
  await page.evaluate((element) => element?.scrollIntoView(), await table.elementHandle());
  const header = (name) => new RegExp(`^\\s*${name}: (.*?)\\s*$`, 'im').exec(headers)?.[1];
  return { status, header, body: json === undefined ? undefined : JSON.parse(json) };
}

const fill = (block, name, value) =>
  block
    .locator(`tr[data-param-name="${name}"]`)
    .locator('input, select, textarea')
    .first()
    .fill(value);

/** What a first visitor does, step by step; each goes on from the one before. */
function visit(page, url, faults) {
  const seen = {};
  return {
    'Swagger UI opens at /docs/ and at /docs': async () => {
      for (const path of ['/docs/', '/docs']) {
        await page.goto(url + path);
        await page.locator('.opblock').first().waitFor();
      }
      equal(await page.title(), 'Holdfast API', 'the title');
      const tags = await page
        .locator('.opblock-tag')
        .evaluateAll((all) => all.map(({ dataset }) => dataset.tag));
      equal(tags.join(), 'users,sessions,orders,health,operations', 'the tags');
    },
    'a user registers with the example': async () => {
      const { status, body } = await execute(await operation(page, 'users', 'register'));
      equal(status, 201, 'the status');
      seen.username = body.username;
    },
    'the user logs in with the example': async () => {
      const { status, body } = await execute(await operation(page, 'sessions', 'logIn'));
      equal(status, 201, 'the status');
      seen.token = body.token;
    },
    'Authorize takes the token': async () => {
      await page.locator('.auth-wrapper button.authorize').click();
      const dialog = page.locator('.dialog-ux');
      await dialog.locator('input').fill(seen.token);
      await dialog.locator('button.authorize').click();
      await dialog.locator('button.btn-done').click();
      await dialog.waitFor({ state: 'detached' });
    },
    'the token outlives a reload': async () => {
      await page.reload();
      await page.locator('.auth-wrapper button.authorize.locked').waitFor();
      const { status, body } = await execute(await operation(page, 'users', 'getMe'));
      equal(status, 200, 'the status');
      equal(body.username, seen.username, 'the caller');
    },
    'an order is placed with the example and its key': async () => {
      const { status, header, body } = await execute(await operation(page, 'orders', 'placeOrder'));
      equal(status, 201, 'the status');
      equal(header('etag'), '"1"', 'the ETag');
      equal(header('location'), `/v1/orders/${body.id}`, 'the Location');
      seen.order = body;
    },
    'sent again with the same key, it is the same order': async () => {
      const { status, header, body } = await execute(await operation(page, 'orders', 'placeOrder'));
      equal(status, 201, 'the status');
      equal(header('idempotent-replayed'), 'true', 'Idempotent-Replayed');
      equal(body.id, seen.order.id, 'the id');
    },
    'the order is read': async () => {
      const block = await operation(page, 'orders', 'getOrder');
      await fill(block, 'id', seen.order.id);
      const { status, header, body } = await execute(block);
      equal(status, 200, 'the status');
      if (!/^holdfast; (fwd|hit)/.test(header('cache-status')))
        throw new Error(`Cache-Status: ${header('cache-status')}`);
      equal(JSON.stringify(body), JSON.stringify(seen.order), 'the order');
    },
    'read again, it comes from the cache': async () => {
      const { status, header } = await execute(await operation(page, 'orders', 'getOrder'));
      equal(status, 200, 'the status');
      equal(header('cache-status'), 'holdfast; hit', 'Cache-Status');
    },
    'the order is changed with the example and its If-Match': async () => {
      const block = await operation(page, 'orders', 'changeOrder');
      await fill(block, 'id', seen.order.id);
      const { status, header } = await execute(block);
      equal(status, 200, 'the status');
      equal(header('etag'), '"2"', 'the ETag');
    },
    'read after the change, it is the changed one': async () => {
      const { status, body } = await execute(await operation(page, 'orders', 'getOrder'));
      equal(status, 200, 'the status');
      equal(body.version, 2, 'the version');
    },
    'a list takes its parameters, one of them several ids': async () => {
      const block = await operation(page, 'orders', 'listOrders');
      await fill(block, 'limit', '');
      await block.locator('tr[data-param-name="ids"] button').click();
      await fill(block, 'ids', seen.order.id);
      const { status, body } = await execute(block);
      equal(status, 200, 'the status');
      equal(body.data[0]?.id, seen.order.id, 'the first order');
    },
    'the user logs out': async () => {
      const { status } = await execute(await operation(page, 'sessions', 'logOut'));
      equal(status, 204, 'the status');
    },
    'the token is dead': async () => {
      const { status, header, body } = await execute(await operation(page, 'orders', 'getOrder'));
      equal(status, 401, 'the status');
      equal(body.code, 'unauthenticated', 'the code');
      if (!header('www-authenticate')?.startsWith('Bearer')) throw new Error('no WWW-Authenticate');
    },
    'the page of a problem opens': async () => {
      await page.goto(`${url}/problems/unauthenticated`);
      equal(await page.locator('h1').innerText(), 'No live session', 'the heading');
    },
    'nothing went wrong in the browser': async () => {
      if (faults.length > 0) throw new Error(faults.join('\n'));
    },
  };
}

async function run() {
  const pictures = await mkdtemp(join(tmpdir(), 'holdfast-browser-'));
  say(`Screenshots: ${pictures}`);
  const url = await startService();
  const { page, faults } = await openBrowser();
  const steps = Object.entries(visit(page, url, faults));
  let passed = 0;
  for (const [name, step] of steps) {
    const picture = join(
      pictures,
      `${String(passed + 1).padStart(2, '0')}-${name.replace(/[^a-z0-9]+/gi, '-')}.png`,
    );
    try {
      await within(3 * STEP, name, step());
      passed++;
      say(`  ok    ${name}`);
    } catch (error) {
      say(`  FAIL  ${name}\n        ${error.message.replaceAll('\n', '\n        ')}`);
      if (faults.length > 0) say(`        in the browser: ${faults.join('\n        ')}`);
      break;
    } finally {
      await page.screenshot({ path: picture, timeout: STEP }).catch(() => undefined);
    }
  }
  return { passed, failed: steps.length - passed };
}

needChromium();
let result = { passed: 0, failed: 1 };
for (const signal of ['SIGINT', 'SIGTERM'])
  process.once(signal, () => void stopAll().finally(() => process.exit(1)));
try {
  result = await within(ALL, 'the browser test', run());
} catch (error) {
  say(`  FAIL  ${error.message}`);
} finally {
  await stopAll();
}
say(`${result.passed} passed, ${result.failed} failed`);
process.exit(result.failed === 0 ? 0 : 1);
