/**
 * Programs that tests run from PATH. Where one is missing, root on Debian gets its package installed; others get an error of
 * one line.
 */
import { execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** The program's path; undefined where PATH has none. */
export function find(command: string): string | undefined {
  const candidates = (process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, command));
  return candidates.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** The program's path, installed when need be from the Debian package of the same name. @throws Error in one line */
export function programOf(command: 'redis-server' | 'openssl'): string {
  const there = find(command);
  if (there) return there;
  const missing = new Error(
    `The tests need ${command} on PATH: install it, e.g. \`apt-get install ${command}\`.`,
  );
  if (process.getuid?.() !== 0 || !find('apt-get')) throw missing;
  // A package would start the system's own server; this file is how Debian's scripts are told not to.
  const policy = '/usr/sbin/policy-rc.d';
  const mine = !existsSync(policy);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const wait = ['-o', 'DPkg::Lock::Timeout=120'];
  try {
    if (mine) writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
    execFileSync('apt-get', [...wait, 'update'], { env, stdio: 'ignore' });
    execFileSync('apt-get', [...wait, 'install', '-y', '--no-install-recommends', command], {
      env,
      stdio: 'ignore',
    });
  } catch {
    throw missing;
  } finally {
    if (mine) rmSync(policy, { force: true });
  }
  const installed = find(command);
  if (!installed) throw missing;
  return installed;
}
