/** Servers and stores of one test, and the questions that several specs ask them. */
import { createClient } from 'redis';
import {
  RedisStore,
  type RedisStoreOptions,
} from '../../../../../src/platform/cache/store/redis/redis-store.js';
import { eventually } from '../../../../support/eventually.js';
import { type RedisServer, sendRedisCommand, startRedis } from '../../../../support/redis.js';
import { type AfterThisTest, registerCleanup } from '../../cleanup.js';

/** Longer than any command takes on a busy machine, so that only a server that hangs exceeds it. */
export const UNHURRIED_TIMEOUT_MS = 10_000;

type StoreOptions = Omit<RedisStoreOptions, 'url'>;

/** Create one at the top level of a spec file. */
export class RedisFixtures {
  readonly afterThisTest: AfterThisTest = registerCleanup();

  /** Waits for servers and stops them after the test. */
  async keep<Servers extends { stop(): Promise<void> }>(
    starting: Promise<Servers>,
  ): Promise<Servers> {
    const servers = await starting;
    this.afterThisTest(() => servers.stop());
    return servers;
  }

  startServer(): Promise<RedisServer> {
    return this.keep(startRedis());
  }

  openStore(url: string, options: StoreOptions = {}): RedisStore {
    const store = RedisStore.connect({ url, commandTimeoutMs: UNHURRIED_TIMEOUT_MS, ...options });
    this.afterThisTest(() => store.close());
    return store;
  }

  async openReadyStore(url: string, options: StoreOptions = {}): Promise<RedisStore> {
    const store = this.openStore(url, options);
    await eventually('the store is available', () => store.isAvailable);
    return store;
  }

  /** A connection of its own, to look into a server. */
  async openAdmin(url: string) {
    const admin = await createClient({ url }).connect();
    this.afterThisTest(() => admin.destroy());
    return admin;
  }
}

/** Whether a server holds a key of this name. */
export async function holdsKey(server: RedisServer, redisKey: string): Promise<boolean> {
  return (await sendRedisCommand(server.port, `EXISTS ${redisKey}`)) === ':1\r\n';
}

/** Waits until the store knows the server of each key. */
export const awaitKeys = (store: RedisStore, keys: readonly string[]): Promise<boolean> =>
  eventually('the server of each key is known', () => keys.every((key) => store.redisKeyOf(key)));
