/**
 * How this service opens a connection to a Redis server and waits for its replies. Invariant: no
 * command is queued while offline, retried, or sent on another connection than the one for which
 * its keys were named.
 */
import { createClient } from 'redis';
import { DeadlineExceededError, withDeadline } from '../../../timing/deadline.js';
import { CacheUnavailableError } from '../cache-store.js';
import type { RedisAddress, RedisTarget } from './redis-url.js';

/** What each connection needs to know. Times are milliseconds. */
export interface RedisConnectionOptions {
  readonly commandTimeoutMs: number;
  readonly connectTimeoutMs?: number | undefined;
  readonly maxQueuedCommands?: number | undefined;
  readonly onError?: ((error: Error) => void) | undefined;
}

export type RedisConnection = ReturnType<typeof createConnection>;

type RespVersion = 2 | 3;

/** Milliseconds between two questions that keep a healthy connection from its socket timeout. */
export const HEARTBEAT_INTERVAL_MS = 1_000;

const DEFAULT_CONNECT_TIMEOUT_MS = 2_000;
const DEFAULT_MAX_QUEUED_COMMANDS = 10_000;
const RECONNECT_PAUSE = { minMs: 50, maxMs: 2_000 } as const;

/**
 * Clients that never connect, of which the connections are duplicates. createClient() makes a class
 * for each new address, with some 40 ms of work that would block the process during a failover.
 */
const templates = new Map<RespVersion, ReturnType<typeof createTemplate>>();

/** A node-redis client with this service's options, not yet connected. */
export function createConnection(
  target: RedisTarget,
  address: RedisAddress,
  options: RedisConnectionOptions,
  respVersion: RespVersion = 3,
) {
  return templateOf(respVersion).duplicate({
    username: target.username,
    password: target.password,
    database: target.database,
    // A command queued while offline would be sent to the next server, under the incarnation of the
    // last one.
    disableOfflineQueue: true,
    // A maintenance notice makes node-redis swap the socket under commands already queued, without
    // a 'ready' event.
    maintNotifications: 'disabled',
    commandsQueueMaxLength: options.maxQueuedCommands ?? DEFAULT_MAX_QUEUED_COMMANDS,
    // node-redis stops its own timeout when the command is written, so it never notices a server
    // that hangs. replyWithin() does.
    commandOptions: { timeout: undefined },
    socket: {
      host: address.host,
      port: address.port,
      ...(target.tls ? { tls: true } : {}),
      connectTimeout: options.connectTimeoutMs ?? DEFAULT_CONNECT_TIMEOUT_MS,
      // connectTimeout covers TCP only; this ends a handshake that hangs.
      socketTimeout: 5 * HEARTBEAT_INTERVAL_MS,
      keepAlive: true,
      keepAliveInitialDelay: 5_000,
      reconnectStrategy: reconnectPause,
    },
  });
}

const createTemplate = (RESP: RespVersion) => createClient({ RESP });

function templateOf(respVersion: RespVersion): ReturnType<typeof createTemplate> {
  const template = templates.get(respVersion) ?? createTemplate(respVersion);
  templates.set(respVersion, template);
  return template;
}

/** Doubles with each retry up to the maximum; half of it is random. */
function reconnectPause(retries: number): number {
  const fullMs = RECONNECT_PAUSE.minMs * 2 ** Math.min(retries, 10);
  const pauseMs = Math.min(fullMs, RECONNECT_PAUSE.maxMs);
  return Math.round(pauseMs * (0.5 + Math.random() / 2));
}

/**
 * Waits for a reply. The command stays sent when the deadline passes, so its outcome is unknown.
 * @throws CacheUnavailableError after `ms`, and for whatever else makes the command fail
 */
export async function replyWithin<T>(ms: number, reply: Promise<T>): Promise<T> {
  try {
    return await withDeadline(ms, 'The Redis command', reply);
  } catch (cause) {
    if (cause instanceof CacheUnavailableError) throw cause;
    if (cause instanceof DeadlineExceededError) {
      throw new CacheUnavailableError(cause.message, { cause });
    }
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CacheUnavailableError(`The Redis command failed: ${reason}`, { cause });
  }
}
