/**
 * Swagger UI as a person uses it, in Chromium, against what `npm run build` made, on an embedded
 * PostgreSQL. Every wait has a bound. The last line is `N passed, M failed`; screenshots are in
 * .data/swagger-ui/.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArguments } from '../../../src/cli/arguments.js';
import { CommandError } from '../../../src/cli/command.js';
import { withDeadline } from '../../../src/platform/timing/deadline.js';
import { type BuiltService, startBuiltService } from '../../support/built-service.js';
import { requireChromium } from './chromium.js';
import { BrowserSession, STEP_TIMEOUT_MS } from './browser-session.js';
import { firstVisit, type Step } from './first-visit.js';

export const USAGE = `npm run verify -- swagger-ui
Needs the build: npm run build. Installs Chromium on Debian as root.`;

const RUN_TIMEOUT_MS = 400_000;
const SCREENSHOT_FOLDER = '.data/swagger-ui';

interface Result {
  readonly passed: number;
  readonly failed: number;
}

export async function run(argv: string[]): Promise<number> {
  parseArguments(argv, { usage: USAGE });
  let result: Result = { passed: 0, failed: 1 };
  try {
    result = await withDeadline(RUN_TIMEOUT_MS, 'The test of Swagger UI', visitService());
  } catch (error) {
    if (error instanceof CommandError) throw error;
    console.log(`  FAIL  ${String(error)}`);
  }
  console.log(`${result.passed} passed, ${result.failed} failed`);
  return result.failed === 0 ? 0 : 1;
}

async function visitService(): Promise<Result> {
  const executable = requireChromium();
  await rm(SCREENSHOT_FOLDER, { recursive: true, force: true });
  await mkdir(SCREENSHOT_FOLDER, { recursive: true });
  const service = await startService();
  try {
    const session = await BrowserSession.open(executable);
    try {
      return await takeSteps(firstVisit(session, service.url), session);
    } finally {
      await session.close();
    }
  } finally {
    await service.stop();
  }
}

async function startService(): Promise<BuiltService> {
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-swagger-ui-'));
  return startBuiltService({ DATA_DIR: dataDir, SHUTDOWN_GRACE_SECONDS: '1' });
}

/** Takes one step after the other and stops at the first that fails: each needs those before it. */
async function takeSteps(steps: readonly Step[], session: BrowserSession): Promise<Result> {
  let passed = 0;
  for (const { name, act } of steps) {
    const number = String(passed + 1).padStart(2, '0');
    const screenshot = join(SCREENSHOT_FOLDER, `${number}-${name.replace(/\W+/g, '-')}.png`);
    try {
      await withDeadline(3 * STEP_TIMEOUT_MS, name, act());
      passed++;
      console.log(`  ok    ${name}`);
    } catch (error) {
      console.log(`  FAIL  ${name}\n${indent((error as Error).message)}`);
      if (session.problems.length > 0) {
        console.log(`        In the browser:\n${indent(session.problems.join('\n'))}`);
      }
      break;
    } finally {
      await session.takeScreenshot(screenshot);
    }
  }
  return { passed, failed: steps.length - passed };
}

const indent = (text: string): string => text.replace(/^/gm, '        ');
