/** Chromium for the test of Swagger UI. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { CommandError } from '../../../src/cli/command.js';

const CHROMIUM = '/usr/bin/chromium';
const INSTALL_TIMEOUT_MS = 600_000;

/**
 * The path of Chromium. Installs it when it is missing and this process may: on Debian, as root.
 * @throws CommandError that says how to install it
 */
export function requireChromium(): string {
  if (existsSync(CHROMIUM)) return CHROMIUM;
  const canInstall = process.getuid?.() === 0 && existsSync('/usr/bin/apt-get');
  const reason = canInstall ? install() : '';
  if (existsSync(CHROMIUM)) return CHROMIUM;
  throw new CommandError(
    `Chromium is missing at ${CHROMIUM}. Install it with ` +
      `\`apt-get install -y --no-install-recommends chromium\`. ${reason}`.trimEnd(),
  );
}

/** @returns why it failed, or nothing */
function install(): string {
  console.log('Installing Chromium with apt-get ...');
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const runAptGet = (...args: string[]): void =>
    void execFileSync('apt-get', args, {
      env,
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: INSTALL_TIMEOUT_MS,
    });
  try {
    runAptGet('update');
    runAptGet('install', '-y', '--no-install-recommends', 'chromium');
    return '';
  } catch (error) {
    return String((error as { stderr?: Buffer }).stderr ?? error).trim();
  }
}
