/**
 * Programs from outside npm that the tests start. Where one is missing, root on Debian gets its
 * package installed; on other systems an error names what is missing.
 */
import { execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Each is also the name of its Debian package. */
export type ProgramName = 'redis-server' | 'openssl' | 'rabbitmq-server';

/** Without these the tests do not run. RabbitMQ is optional: its tests are skipped. */
export const REQUIRED_PROGRAMS: readonly ProgramName[] = ['redis-server', 'openssl'];

/**
 * Debian's packages start the system's own server when they are installed, unless this file exits
 * with 101 (invoke-rc.d, policy-rc.d(8)).
 */
const SERVICE_POLICY = '/usr/sbin/policy-rc.d';
/** Debian's script on PATH needs root and changes the user; the script in here does neither. */
const RABBITMQ_HOME = '/usr/lib/rabbitmq/lib';

/** The path of a program on PATH; undefined when PATH has none. */
export function findProgram(command: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return folders.map((folder) => join(folder, command)).find(isExecutable);
}

/**
 * The path of the program. Installs its package when it is missing and this process may.
 * @throws Error one line that says how to install it
 */
export function requireProgram(name: ProgramName): string {
  const path = pathOf(name) ?? installAndFind(name);
  if (path) return path;
  throw new Error(
    `The tests need ${name} on PATH. Install it, e.g. \`apt-get install ${name}\` ` +
      `or \`brew install ${brewName(name)}\`.`,
  );
}

/** The path of RabbitMQ's start script; undefined when it is missing and cannot be installed. */
export function rabbitmqProgram(): string | undefined {
  return pathOf('rabbitmq-server') ?? installAndFind('rabbitmq-server');
}

/**
 * Installs every program that is missing, if this process may.
 * @returns the programs that are still missing
 */
export function installMissingPrograms(names: readonly ProgramName[]): ProgramName[] {
  const missing = names.filter((name) => !pathOf(name));
  if (missing.length > 0 && canInstall()) {
    process.stdout.write(`Installing ${missing.join(', ')} with apt-get ...\n`);
    installPackages(missing);
    // The workers of this run must not try again.
    process.env.HOLDFAST_INSTALL_TRIED = '1';
  }
  return missing.filter((name) => !pathOf(name));
}

function pathOf(name: ProgramName): string | undefined {
  return name === 'rabbitmq-server' ? findRabbitmq() : findProgram(name);
}

function findRabbitmq(): string | undefined {
  if (!existsSync(RABBITMQ_HOME)) return findProgram('rabbitmq-server');
  return readdirSync(RABBITMQ_HOME)
    .filter((folder) => folder.startsWith('rabbitmq_server-'))
    .map((folder) => join(RABBITMQ_HOME, folder, 'sbin/rabbitmq-server'))
    .find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

const brewName = (name: ProgramName): string => (name === 'redis-server' ? 'redis' : name);

function canInstall(): boolean {
  const isDebian = existsSync('/etc/debian_version') && findProgram('apt-get') !== undefined;
  const wasTried = process.env.HOLDFAST_INSTALL_TRIED !== undefined;
  return isDebian && process.getuid?.() === 0 && !wasTried;
}

function installAndFind(name: ProgramName): string | undefined {
  if (!canInstall()) return undefined;
  installPackages([name]);
  return pathOf(name);
}

/** Failures are not reported here: the caller looks for the program and says what is missing. */
function installPackages(names: readonly ProgramName[]): void {
  const hasPolicy = existsSync(SERVICE_POLICY);
  if (!hasPolicy) writeFileSync(SERVICE_POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    runAptGet('update');
    runAptGet('install', '-y', '--no-install-recommends', ...names);
  } catch {
    // No network, or no such package.
  } finally {
    if (!hasPolicy) rmSync(SERVICE_POLICY, { force: true });
  }
}

function runAptGet(...args: string[]): void {
  // Another process of this run may be installing: wait for its lock.
  execFileSync('apt-get', ['-o', 'DPkg::Lock::Timeout=120', ...args], {
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    stdio: 'ignore',
  });
}
