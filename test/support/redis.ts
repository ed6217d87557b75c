/**
 * A real Redis server for one test file, on its own port and directory, that can be hung, killed and started again.
 * The invariant: no server outlives the test process, not even one that is killed with SIGKILL.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** One server under a test's control. */
export interface RedisServer {
  readonly port: number;
  readonly url: string;
  /** The running process's id; another one after {@link RedisServer.restart}. */
  readonly pid: number;
  /** Ends it for good and removes its directory. Idempotent. */
  stop(): Promise<void>;
  /** SIGKILL, as a crash; `restart` brings it back. */
  kill(): Promise<void>;
  /** SIGSTOP: connections stay open, nothing answers. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
  /** Kills it if it runs and starts a new process on the same port, which answers when this resolves. */
  restart(): Promise<void>;
}

const running = new Set<ChildProcess>();
process.once('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/**
 * Starts `redis-server` from PATH without persistence and waits until it answers. Where it is missing, root on Debian gets
 * the package installed; others get an error of one line.
 * @param options.args further options for the command line, e.g. `['--maxmemory', '4mb']`
 */
export async function startRedis(options: { readonly args?: readonly string[] } = {}): Promise<RedisServer> {
  const binary = find('redis-server') ?? install();
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-redis-'));
  const launch = async (port: number): Promise<ChildProcess> => {
    const child = spawnBound(binary, [
      ...['--port', String(port), '--bind', '127.0.0.1', '--dir', dir],
      ...['--save', '', '--appendonly', 'no', ...(options.args ?? [])],
    ]);
    await untilAnswering(child, port);
    return child;
  };

  let port = await freePort();
  let child: ChildProcess;
  try {
    child = await launch(port);
  } catch {
    // Someone else may have taken the port in between.
    port = await freePort();
    child = await launch(port);
  }
  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    get pid() {
      return child.pid!;
    },
    async stop() {
      await end(child);
      rmSync(dir, { recursive: true, force: true });
    },
    kill: () => end(child),
    pause: () => void child.kill('SIGSTOP'),
    resume: () => void child.kill('SIGCONT'),
    async restart() {
      await end(child);
      child = await launch(port);
    },
  };
}

/** A child that the kernel kills with its parent, or, where setpriv is missing, a shell that watches both. */
function spawnBound(command: string, args: string[]): ChildProcess {
  const setpriv = find('setpriv');
  const child = setpriv
    ? spawn(setpriv, ['--pdeathsig', 'KILL', command, ...args], { stdio: 'ignore' })
    : spawn(command, args, { stdio: 'ignore' });
  if (!setpriv) {
    const watch = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; kill -9 "$2"';
    spawn('sh', ['-c', `(${watch}) 2>/dev/null`, 'sh', String(process.pid), String(child.pid)], {
      stdio: 'ignore',
      detached: true,
    }).unref();
  }
  running.add(child);
  child.once('exit', () => running.delete(child));
  child.unref();
  return child;
}

function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    child.ref();
    child.once('exit', () => resolve());
    child.kill('SIGKILL');
  });
}

async function untilAnswering(child: ChildProcess, port: number): Promise<void> {
  let failure: Error | undefined;
  child.once('error', (error) => (failure = error));
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(10)) {
    if (failure) throw failure;
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`redis-server ended on port ${port}`);
    if (await answers(port)) return;
  }
  await end(child);
  throw new Error(`redis-server did not answer on port ${port}`);
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'));
    const settle = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(500, () => settle(false));
    socket.once('error', () => settle(false));
    socket.once('close', () => settle(false));
    socket.once('data', (data) => settle(data.toString().startsWith('+PONG')));
  });
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        address && typeof address === 'object' ? resolve(address.port) : reject(new Error('no port')),
      );
    });
  });
}

function find(command: string): string | undefined {
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

function install(): string {
  const missing = new Error('The tests need redis-server on PATH: install it, e.g. `apt-get install redis-server`.');
  if (process.getuid?.() !== 0 || !find('apt-get')) throw missing;
  // The package would start the system's own server; this file is how Debian's scripts are told not to.
  const policy = '/usr/sbin/policy-rc.d';
  const mine = !existsSync(policy);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const wait = ['-o', 'DPkg::Lock::Timeout=120'];
  try {
    if (mine) writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
    execFileSync('apt-get', [...wait, 'update'], { env, stdio: 'ignore' });
    const packages = ['install', '-y', '--no-install-recommends', 'redis-server'];
    execFileSync('apt-get', [...wait, ...packages], { env, stdio: 'ignore' });
  } catch {
    throw missing;
  } finally {
    if (mine) rmSync(policy, { force: true });
  }
  const installed = find('redis-server');
  if (!installed) throw missing;
  return installed;
}
