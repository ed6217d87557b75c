/**
 * The forms of REDIS_URL: what each one names, and that the start of the service accepts and
 * rejects the same URLs as the cache.
 */
import { describe, expect, it } from '@jest/globals';
import { ConfigError, loadConfig } from '../../../../../src/config.js';
import {
  parseRedisUrl,
  type RedisAddress,
  type RedisTarget,
} from '../../../../../src/platform/cache/store/redis/redis-url.js';

const PLAIN = { tls: false, username: undefined, password: undefined, masterName: '', database: 0 };
const STANDALONE = { ...PLAIN, topology: 'standalone' } as const;
const SENTINEL = { ...PLAIN, topology: 'sentinel', masterName: 'main' } as const;
const CLUSTER = { ...PLAIN, topology: 'cluster' } as const;

const at = (host: string, port: number): RedisAddress => ({ host, port });

const VALID: Readonly<Record<string, RedisTarget>> = {
  'redis://cache': { ...STANDALONE, addresses: [at('cache', 6379)] },
  'redis://cache/': { ...STANDALONE, addresses: [at('cache', 6379)] },
  'rediss://u:p@cache.example:1/2': {
    ...STANDALONE,
    tls: true,
    username: 'u',
    password: 'p',
    addresses: [at('cache.example', 1)],
    database: 2,
  },
  'redis://:p%40s%2Fs@[::1]:7000': {
    ...STANDALONE,
    password: 'p@s/s',
    addresses: [at('::1', 7000)],
  },
  'redis://:a/b@c:d%#@10.0.0.1': {
    ...STANDALONE,
    password: 'a/b@c:d%#',
    addresses: [at('10.0.0.1', 6379)],
  },
  'redis+sentinel://a,b:1,[fe80::1]:2/main': {
    ...SENTINEL,
    addresses: [at('a', 26379), at('b', 1), at('fe80::1', 2)],
  },
  'rediss+sentinel://u:p@a:26379/main/3': {
    ...SENTINEL,
    tls: true,
    username: 'u',
    password: 'p',
    addresses: [at('a', 26379)],
    database: 3,
  },
  'redis+cluster://a:7000,b:7001': { ...CLUSTER, addresses: [at('a', 7000), at('b', 7001)] },
  'rediss+cluster://:p@a,b/': {
    ...CLUSTER,
    tls: true,
    password: 'p',
    addresses: [at('a', 6379), at('b', 6379)],
  },
};

const INVALID: Readonly<Record<string, readonly string[]>> = {
  'no Redis URL': ['cache', 'cache:6379', 'redis:6379', 'http://cache', 'sentinel://a/main'],
  'a misspelt scheme': [
    'redis//cache',
    'redis:/cache',
    'Redis://cache',
    'redis+other://a',
    'redis+tls://a',
  ],
  'no host': [
    'redis://',
    'redis:///0',
    'redis://:6379',
    'redis+sentinel:///main',
    'redis+cluster://',
  ],
  'an empty host': ['redis+sentinel://a,/main', 'redis+cluster://a,,b'],
  'an invalid host': [
    'redis://[::g]',
    'redis://[::1',
    'redis://-cache',
    'redis+sentinel://a, b/main',
    'redis+cluster://a;b',
  ],
  'an invalid port': [
    'redis://cache:port',
    'redis://cache:0',
    'redis://cache:65536',
    'redis://cache:',
  ],
  'a user without a password': ['redis://u@cache'],
  'a query or a fragment': ['redis://cache?db=1', 'redis://cache#1'],
  'several hosts for one server': ['redis://a,b'],
  'a path that one server does not have': [
    'redis://cache/main',
    'redis://cache/0/1',
    'redis://cache/12345',
  ],
  'no master name': ['redis+sentinel://a,b', 'redis+sentinel://a/'],
  'a path that Sentinels do not have': [
    'redis+sentinel://a/main/db',
    'redis+sentinel://a/main/0/1',
  ],
  'a path that a Cluster does not have': ['redis+cluster://a/0', 'redis+cluster://a/main'],
};
const INVALID_CASES = Object.entries(INVALID).flatMap(([reason, urls]) =>
  urls.map((url) => [url, reason] as const),
);

describe('REDIS_URL', () => {
  it.each(Object.entries(VALID))('%s is valid', (url, target) => {
    expect(parseRedisUrl(url)).toEqual(target);
    expect(loadConfig({ REDIS_URL: url }).redisUrl).toBe(url);
  });

  it.each(INVALID_CASES)('%s is invalid: %s', (url) => {
    expect(parseRedisUrl(url)).toBeUndefined();
    expect(() => loadConfig({ REDIS_URL: url })).toThrow(ConfigError);
  });

  it('an empty text names no Redis', () => {
    expect(parseRedisUrl('')).toBeUndefined();
  });
});
