/**
 * Real Redis servers for one test file: alone, under Sentinels, or as a cluster. Each has a port
 * and a folder of its own and can be hung, killed and restarted. Invariant: no server outlives the
 * process that started it.
 */
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hasEnded, killProcess, spawnBound } from './child-process.js';
import { eventually } from './eventually.js';
import { freePort, onFreePort } from './free-port.js';
import { requireProgram } from './programs.js';

/** Bounds one command of {@link sendRedisCommand}, e.g. to a server that is paused. */
const COMMAND_TIMEOUT_MS = 2_000;

/** One server under a test's control. */
export interface RedisServer {
  readonly port: number;
  readonly url: string;
  /** The process's id. It changes with {@link restart}. */
  readonly pid: number;
  /** Ends the server for good and removes its folder. Idempotent. */
  stop(): Promise<void>;
  /** SIGKILL, as in a crash. */
  kill(): Promise<void>;
  /** SIGSTOP: connections stay open, nothing answers. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
  /** Kills the server if it runs. Starts it again on the same port and waits until it answers. */
  restart(): Promise<void>;
}

export interface RedisOptions {
  /** Further options of the command line, e.g. `['--maxmemory', '4mb']`. */
  readonly args?: readonly string[];
  /** A configuration file, for settings that the command line does not take. */
  readonly config?: string;
}

/** Starts `redis-server` without persistence and waits until it answers. */
export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  const binary = requireProgram('redis-server');
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-redis-'));
  const configFile = writeConfig(folder, options.config);
  const launch = async (onPort: number): Promise<{ child: ChildProcess; port: number }> => {
    const fixedArgs = ['--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no'];
    const args = [...configFile, '--port', String(onPort), ...fixedArgs, ...(options.args ?? [])];
    const server = spawnBound(binary, args, { stdio: 'ignore' });
    server.unref();
    await awaitAnswer(server, onPort);
    return { child: server, port: onPort };
  };

  const started = await onFreePort(launch);
  const { port } = started;
  let { child } = started;
  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    get pid() {
      return child.pid as number;
    },
    async stop() {
      await killProcess(child);
      rmSync(folder, { recursive: true, force: true });
    },
    kill: () => killProcess(child),
    pause: () => void child.kill('SIGSTOP'),
    resume: () => void child.kill('SIGCONT'),
    async restart() {
      await killProcess(child);
      ({ child } = await launch(port));
    },
  };
}

/** @returns the arguments that name the file. A Sentinel rewrites it: restarts must not. */
function writeConfig(folder: string, config: string | undefined): string[] {
  if (config === undefined) return [];
  const file = join(folder, 'redis.conf');
  if (!existsSync(file)) writeFileSync(file, config);
  return [file];
}

async function awaitAnswer(server: ChildProcess, port: number): Promise<void> {
  let spawnError: Error | undefined;
  server.once('error', (error) => (spawnError = error));
  const answers = async (): Promise<boolean> => {
    if (spawnError !== undefined || hasEnded(server)) return true;
    return (await sendRedisCommand(port, 'PING')).startsWith('+PONG');
  };
  try {
    await eventually(`redis-server answers on port ${port}`, answers);
  } catch (error) {
    await killProcess(server);
    throw error;
  }
  if (spawnError) throw spawnError;
  if (hasEnded(server)) throw new Error(`redis-server ended on port ${port}`);
}

/** A master named `holdfast`, a replica, and Sentinels that need 1 s to declare it dead. */
export interface RedisSentinel {
  /** `redis+sentinel://…/holdfast` */
  readonly url: string;
  /** Master and replica; a failover changes which is which. */
  readonly servers: readonly [RedisServer, RedisServer];
  readonly sentinels: readonly RedisServer[];
  stop(): Promise<void>;
}

const SENTINEL_COUNT = 3;
/** By default a full resynchronisation waits 5 s for further replicas. */
const SYNC_AT_ONCE = ['--repl-diskless-sync-delay', '0'];

export async function startRedisSentinel(): Promise<RedisSentinel> {
  const master = await startRedis({ args: SYNC_AT_ONCE });
  const config = [
    `sentinel monitor holdfast 127.0.0.1 ${master.port} 2`,
    'sentinel down-after-milliseconds holdfast 1000',
    'sentinel failover-timeout holdfast 3000',
  ].join('\n');
  const replicaOf = ['--replicaof', '127.0.0.1', String(master.port)];
  const replica = await startRedis({ args: [...SYNC_AT_ONCE, ...replicaOf] });
  // A Sentinel looks for replicas when it starts, and then only every 10 s.
  await eventually('the replica is online', async () =>
    (await sendRedisCommand(master.port, 'INFO replication')).includes('state=online'),
  );
  const starts = Array.from({ length: SENTINEL_COUNT }, () =>
    startRedis({ config, args: ['--sentinel'] }),
  );
  const sentinels = await Promise.all(starts);
  await eventually('every Sentinel knows the replica and the other Sentinels', async () =>
    (await Promise.all(sentinels.map(knowsAll))).every(Boolean),
  );
  return {
    url: `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/holdfast`,
    servers: [master, replica],
    sentinels,
    async stop() {
      await Promise.all([master, replica, ...sentinels].map((server) => server.stop()));
    },
  };
}

async function knowsAll(sentinel: RedisServer): Promise<boolean> {
  const reply = await sendRedisCommand(sentinel.port, 'SENTINEL MASTER holdfast');
  const fields = reply.replace(/\$\d+\r\n/g, ''); // without the lengths of the bulk strings
  const knowsReplica = /num-slaves\s+1\s/.test(fields);
  const knowsSentinels = new RegExp(`num-other-sentinels\\s+${SENTINEL_COUNT - 1}\\s`).test(fields);
  return knowsReplica && knowsSentinels;
}

/** Three masters with a third of the slots each, and a replica of the first. */
export interface RedisCluster {
  /** `redis+cluster://…` with the first master only: clients must discover the others. */
  readonly url: string;
  readonly masters: readonly [RedisServer, RedisServer, RedisServer];
  readonly replica: RedisServer;
  stop(): Promise<void>;
}

const SLOT_RANGES = ['0 5460', '5461 10922', '10923 16383'];

interface ClusterServer {
  readonly server: RedisServer;
  readonly busPort: number;
}

export async function startRedisCluster(): Promise<RedisCluster> {
  const launches = Array.from({ length: SLOT_RANGES.length + 1 }, startClusterServer);
  const nodes = await Promise.all(launches);
  const servers = nodes.map(({ server }) => server);
  const [first, second, third, replica] = servers as [
    RedisServer,
    RedisServer,
    RedisServer,
    RedisServer,
  ];
  await joinServers(nodes);
  await everyReplyMatches(
    servers,
    'CLUSTER INFO',
    /cluster_state:ok[^]*cluster_known_nodes:4\s[^]*cluster_size:3\s/,
  );
  const firstId = /[0-9a-f]{40}/.exec(await sendRedisCommand(first.port, 'CLUSTER MYID'))?.[0];
  await sendRedisCommand(replica.port, `CLUSTER REPLICATE ${firstId}`);
  await everyReplyMatches([replica], 'INFO replication', /master_link_status:up/);
  await everyReplyMatches(servers, 'CLUSTER NODES', new RegExp(`slave ${firstId}`));
  return {
    url: `redis+cluster://127.0.0.1:${first.port}`,
    masters: [first, second, third],
    replica,
    async stop() {
      await Promise.all(servers.map((server) => server.stop()));
    },
  };
}

async function startClusterServer(): Promise<ClusterServer> {
  // By default the port of the cluster bus is 10 000 above the other, which may exceed 65 535.
  const busPort = await freePort();
  const args = [
    ...['--cluster-enabled', 'yes', '--cluster-port', String(busPort)],
    ...['--cluster-node-timeout', '1000', '--cluster-require-full-coverage', 'no'],
    ...SYNC_AT_ONCE,
  ];
  return { server: await startRedis({ args }), busPort };
}

/** Deals the slots out to the first three servers and introduces all to the first. */
async function joinServers(nodes: readonly ClusterServer[]): Promise<void> {
  const firstPort = nodes[0]?.server.port as number;
  for (const [index, { server, busPort }] of nodes.entries()) {
    await sendRedisCommand(server.port, `CLUSTER SET-CONFIG-EPOCH ${index + 1}`);
    const slots = SLOT_RANGES[index];
    if (slots) await sendRedisCommand(server.port, `CLUSTER ADDSLOTSRANGE ${slots}`);
    if (index > 0) {
      await sendRedisCommand(firstPort, `CLUSTER MEET 127.0.0.1 ${server.port} ${busPort}`);
    }
  }
}

function everyReplyMatches(
  servers: readonly RedisServer[],
  command: string,
  pattern: RegExp,
): Promise<boolean> {
  return eventually(`every server answers ${command} with ${pattern}`, async () => {
    const replies = servers.map(({ port }) => sendRedisCommand(port, command));
    return (await Promise.all(replies)).every((reply) => pattern.test(reply));
  });
}

/**
 * Sends one command over a connection of its own.
 * @returns the reply as it was received (RESP)
 * @throws Error when there is no reply or it is an error
 */
export function sendRedisCommand(port: number, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const failure = (reason: string) => new Error(`${command} on port ${port}: ${reason}`);
    const socket = connect(port, '127.0.0.1', () => socket.end(`${command}\r\n`));
    const chunks: Buffer[] = [];
    socket.setTimeout(COMMAND_TIMEOUT_MS, () => socket.destroy(failure('no reply')));
    socket.on('data', (data) => chunks.push(data));
    socket.once('error', reject);
    socket.once('close', () => {
      const reply = Buffer.concat(chunks).toString();
      const isError = reply.startsWith('-');
      if (reply === '' || isError) reject(failure(reply || 'no reply'));
      else resolve(reply);
    });
  });
}
