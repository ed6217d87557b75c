/**
 * A real Redis server for one test file, on its own port and directory, that can be hung, killed and started again.
 * The invariant: no server outlives the test process, not even one that is killed with SIGKILL.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { find, programOf } from './programs.js';

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
 * @param options.config a configuration file, for what only a file can say
 */
export async function startRedis(
  options: { readonly args?: readonly string[]; readonly config?: string } = {},
): Promise<RedisServer> {
  const binary = programOf('redis-server');
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-redis-'));
  const launch = async (port: number): Promise<ChildProcess> => {
    const file = join(dir, 'redis.conf');
    if (options.config !== undefined && !existsSync(file)) writeFileSync(file, options.config);
    const child = spawnBound(binary, [
      ...(options.config === undefined ? [] : [file]),
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

/** A master called `holdfast`, a replica and three Sentinels, which take 500 ms to find a server dead. */
export interface RedisSentinel {
  /** `redis+sentinel://…/holdfast` */
  readonly url: string;
  /** The first two servers, whichever of them is the master now. */
  readonly servers: readonly [RedisServer, RedisServer];
  readonly sentinels: readonly RedisServer[];
  stop(): Promise<void>;
}

export async function startSentinel(): Promise<RedisSentinel> {
  // A full resynchronisation would otherwise wait 5 s for further replicas.
  const args = ['--repl-diskless-sync-delay', '0'];
  const master = await startRedis({ args });
  const config = [
    `sentinel monitor holdfast 127.0.0.1 ${master.port} 2`,
    'sentinel down-after-milliseconds holdfast 500',
    'sentinel failover-timeout holdfast 3000',
  ].join('\n');
  const replica = await startRedis({
    args: [...args, '--replicaof', '127.0.0.1', String(master.port)],
  });
  // A Sentinel asks for replicas when it starts, and then only every 10 s.
  await eventually(async () =>
    (await ask(master.port, 'INFO replication')).includes('state=online'),
  );
  const sentinels = await Promise.all(
    [1, 2, 3].map(() => startRedis({ config, args: ['--sentinel'] })),
  );
  const started = [master, replica, ...sentinels];
  const acquainted = (reply: string) =>
    /num-slaves\s+1\s/.test(reply) && /num-other-sentinels\s+2\s/.test(reply);
  await eventually(async () => {
    const replies = await Promise.all(
      sentinels.map((it) => ask(it.port, 'SENTINEL MASTER holdfast')),
    );
    return replies.every((reply) => acquainted(reply.replace(/\$\d+\r\n/g, '')));
  });
  return {
    url: `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/holdfast`,
    servers: [master, replica],
    sentinels,
    async stop() {
      await Promise.all(started.map((server) => server.stop()));
    },
  };
}

/** Three masters of a third of the slots each, and a replica of the first. */
export interface RedisCluster {
  /** `redis+cluster://…` of the first master alone: the others must be found. */
  readonly url: string;
  readonly masters: readonly [RedisServer, RedisServer, RedisServer];
  readonly replica: RedisServer;
  stop(): Promise<void>;
}

export async function startCluster(): Promise<RedisCluster> {
  const launch = async (): Promise<readonly [RedisServer, number]> => {
    // By default the port of the cluster's own protocol is 10 000 above the other, which may be more than there are.
    const busPort = await freePort();
    const options = [
      '--cluster-enabled',
      'yes',
      '--cluster-port',
      String(busPort),
      '--cluster-node-timeout',
      '1000',
    ];
    const args = [
      ...options,
      '--cluster-require-full-coverage',
      'no',
      '--repl-diskless-sync-delay',
      '0',
    ];
    return [await startRedis({ args }), busPort];
  };
  const nodes = await Promise.all([launch(), launch(), launch(), launch()]);
  const servers = nodes.map(([server]) => server) as [
    RedisServer,
    RedisServer,
    RedisServer,
    RedisServer,
  ];
  const [first, , , replica] = servers;
  const ranges = ['0 5460', '5461 10922', '10923 16383'];
  for (const [index, { port }] of servers.entries()) {
    await ask(port, `CLUSTER SET-CONFIG-EPOCH ${index + 1}`);
    if (index < 3) await ask(port, `CLUSTER ADDSLOTSRANGE ${ranges[index]}`);
    if (index > 0) await ask(first.port, `CLUSTER MEET 127.0.0.1 ${port} ${nodes[index]![1]}`);
  }
  const everyone = (question: string, answer: RegExp, asked: readonly RedisServer[] = servers) =>
    eventually(async () => {
      const replies = await Promise.all(asked.map(({ port }) => ask(port, question)));
      return replies.every((reply) => answer.test(reply));
    });
  await everyone('CLUSTER INFO', /cluster_state:ok[^]*cluster_known_nodes:4\s[^]*cluster_size:3\s/);
  const [, id] = /([0-9a-f]{40})/.exec(await ask(first.port, 'CLUSTER MYID'))!;
  await ask(replica.port, `CLUSTER REPLICATE ${id}`);
  await everyone('INFO replication', /master_link_status:up/, [replica]);
  await everyone('CLUSTER NODES', new RegExp(`slave ${id}`));
  return {
    url: `redis+cluster://127.0.0.1:${first.port}`,
    masters: servers.slice(0, 3) as unknown as RedisCluster['masters'],
    replica,
    async stop() {
      await Promise.all(servers.map((server) => server.stop()));
    },
  };
}

async function eventually(condition: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 15_000; !(await condition()); await sleep(50)) {
    if (Date.now() > deadline) throw new Error('The Redis servers do not come together');
  }
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
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`redis-server ended on port ${port}`);
    if (await answers(port)) return;
  }
  await end(child);
  throw new Error(`redis-server did not answer on port ${port}`);
}

async function answers(port: number): Promise<boolean> {
  return (await ask(port, 'PING').catch(() => '')).startsWith('+PONG');
}

/** The reply to one command, as it comes over the wire. @throws Error where none comes, or it is an error */
export function ask(port: number, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const failed = (reason: string) => new Error(`${command} on port ${port}: ${reason}`);
    const socket = connect(port, '127.0.0.1', () => socket.end(`${command}\r\n`));
    const chunks: Buffer[] = [];
    socket.setTimeout(500, () => socket.destroy(failed('no answer')));
    socket.on('data', (data) => chunks.push(data));
    socket.once('error', reject);
    socket.once('close', () => {
      const reply = Buffer.concat(chunks).toString();
      if (reply === '' || reply.startsWith('-')) reject(failed(reply || 'no answer'));
      else resolve(reply);
    });
  });
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        address && typeof address === 'object'
          ? resolve(address.port)
          : reject(new Error('no port')),
      );
    });
  });
}
