/**
 * A real RabbitMQ for one test file: its own port, node name, directory and Erlang settings, no epmd and no plugins, so that it
 * neither needs nor disturbs any other on the machine. It takes about 5 s to start: one for a file. The invariant: no
 * broker outlives the test process, not even one that is killed with SIGKILL.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'amqplib';

/** One broker under a test's control; its durable queues and persistent messages survive kill and restart. */
export interface RabbitServer {
  readonly port: number;
  readonly url: string;
  /** Ends it for good and removes its directory. Idempotent. */
  stop(): Promise<void>;
  /** SIGKILL, as a crash; `restart` brings it back. */
  kill(): Promise<void>;
  /** SIGSTOP: connections stay open, nothing answers. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
  /** Kills it if it runs and starts it again on the same files and port. @param config further lines of rabbitmq.conf */
  restart(config?: readonly string[]): Promise<void>;
}

const running = new Set<ChildProcess>();
process.once('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/**
 * Starts the broker that Debian's package `rabbitmq-server` brings and waits until it takes connections. Where it is missing,
 * root on Debian gets the package installed, without the system's service; others get an error of one line.
 * @param config further lines of rabbitmq.conf
 */
export async function startRabbit(config: readonly string[] = []): Promise<RabbitServer> {
  const program = find() ?? install();
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-rabbitmq-'));
  let child: ChildProcess | undefined;
  let port = await freePort();
  let distribution = await freePort();
  const launch = async (lines: readonly string[]): Promise<void> => {
    child = spawnBroker(program, dir, port, distribution, [...config, ...lines]);
    await untilAnswering(child, port, dir);
  };
  try {
    await launch([]);
  } catch {
    // Someone else may have taken a port in between.
    if (child) await end(child);
    [port, distribution] = [await freePort(), await freePort()];
    await launch([]);
  }
  return {
    port,
    url: `amqp://guest:guest@127.0.0.1:${port}`,
    async stop() {
      if (child) await end(child);
      rmSync(dir, { recursive: true, force: true });
    },
    kill: async () => void (child && (await end(child))),
    pause: () => void child?.kill('SIGSTOP'),
    resume: () => void child?.kill('SIGCONT'),
    async restart(lines = []) {
      if (child) await end(child);
      await launch(lines);
    },
  };
}

function spawnBroker(
  program: string,
  dir: string,
  port: number,
  distribution: number,
  config: readonly string[],
): ChildProcess {
  mkdirSync(join(dir, 'conf.d'), { recursive: true });
  writeFileSync(
    join(dir, 'rabbitmq.conf'),
    ['log.console = true', 'log.console.level = error', 'log.file = false', ...config, ''].join(
      '\n',
    ),
  );
  writeFileSync(join(dir, 'plugins'), '[].\n');
  // One scheduler that does not spin; `-start_epmd false` and a fixed port: a single node needs nobody to find it.
  const erlang = `+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -noinput -start_epmd false -erl_epmd_port ${distribution}`;
  const env = {
    PATH: process.env.PATH,
    HOME: dir,
    LANG: 'C.UTF-8',
    RABBITMQ_NODENAME: `holdfast-${port}@localhost`,
    RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
    RABBITMQ_NODE_PORT: String(port),
    RABBITMQ_DIST_PORT: String(distribution),
    RABBITMQ_MNESIA_BASE: join(dir, 'mnesia'),
    RABBITMQ_LOG_BASE: join(dir, 'log'),
    RABBITMQ_CONFIG_FILE: join(dir, 'rabbitmq'),
    RABBITMQ_CONFIG_FILES: join(dir, 'conf.d'),
    RABBITMQ_ADVANCED_CONFIG_FILE: join(dir, 'advanced'),
    RABBITMQ_CONF_ENV_FILE: join(dir, 'environment'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(dir, 'plugins'),
    RABBITMQ_PID_FILE: join(dir, 'pid'),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: erlang,
    // The script then becomes Erlang instead of watching over it: one process, which signals reach.
    RABBITMQ_ALLOW_INPUT: 'true',
  };
  const output = join(dir, 'output');
  const [command, ...args] = existsSync('/usr/bin/setpriv')
    ? [
        '/usr/bin/setpriv',
        '--pdeathsig',
        'KILL',
        'sh',
        '-c',
        'exec "$0" >>"$1" 2>&1',
        program,
        output,
      ]
    : ['sh', '-c', 'exec "$0" >>"$1" 2>&1', program, output];
  const child = spawn(command as string, args, { env, cwd: dir, stdio: 'ignore' });
  if (!existsSync('/usr/bin/setpriv')) {
    const watch = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; kill -9 "$2"';
    const who = ['sh', String(process.pid), String(child.pid)];
    spawn('sh', ['-c', `(${watch}) 2>/dev/null`, ...who], {
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

async function untilAnswering(child: ChildProcess, port: number, dir: string): Promise<void> {
  for (const deadline = Date.now() + 60_000; Date.now() < deadline; await sleep(50)) {
    if (child.exitCode !== null || child.signalCode !== null) {
      const said = readFileSync(join(dir, 'output'), 'utf8')
        .trim()
        .split('\n')
        .slice(-5)
        .join(' | ');
      throw new Error(`rabbitmq-server ended: ${said}`);
    }
    const connection = await connect(`amqp://guest:guest@127.0.0.1:${port}`, {
      timeout: 1_000,
    }).catch(() => undefined);
    if (connection) return connection.close();
  }
  await end(child);
  throw new Error(`rabbitmq-server did not answer on port ${port}`);
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** The script itself: the one on PATH gives its privileges away, and asks for root to do so. */
function find(): string | undefined {
  const home = '/usr/lib/rabbitmq/lib';
  const versions = existsSync(home)
    ? readdirSync(home).filter((name) => name.startsWith('rabbitmq_server-'))
    : [];
  return versions
    .map((name) => join(home, name, 'sbin/rabbitmq-server'))
    .find((path) => existsSync(path));
}

function install(): string {
  const missing = new Error(
    'The tests need RabbitMQ: install it, e.g. `apt-get install rabbitmq-server`.',
  );
  if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) throw missing;
  // The package would start the system's own broker; this file is how Debian's scripts are told not to.
  const policy = '/usr/sbin/policy-rc.d';
  const mine = !existsSync(policy);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const apt = (...args: string[]): unknown =>
    execFileSync('apt-get', ['-o', 'DPkg::Lock::Timeout=120', ...args], { env, stdio: 'ignore' });
  try {
    if (mine) writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
    apt('update');
    apt('install', '-y', '--no-install-recommends', 'rabbitmq-server');
  } catch {
    throw missing;
  } finally {
    if (mine) rmSync(policy, { force: true });
  }
  const installed = find();
  if (!installed) throw missing;
  return installed;
}
