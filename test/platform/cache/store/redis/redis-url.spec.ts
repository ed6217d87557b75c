/** REDIS_URL: what each form names, and that what the start accepts is what the cache can take apart. */
import { describe, expect, it } from '@jest/globals';
import { parseRedisUrl } from '../../src/cache/redis.url.js';
import { ConfigError, loadConfig } from '../../src/config.js';

const plain = { tls: false, username: undefined, password: undefined, masterName: '', database: 0 };
const at = (host: string, port: number) => ({ host, port });

const ACCEPTED = {
  'redis://cache': { ...plain, topology: 'standalone', addresses: [at('cache', 6379)] },
  'redis://cache/': { ...plain, topology: 'standalone', addresses: [at('cache', 6379)] },
  'rediss://u:p@cache.example:1/2': {
    ...{
      topology: 'standalone',
      tls: true,
      username: 'u',
      password: 'p',
      addresses: [at('cache.example', 1)],
    },
    ...{ masterName: '', database: 2 },
  },
  'redis://:p%40s%2Fs@[::1]:7000': {
    ...{ ...plain, topology: 'standalone', password: 'p@s/s', addresses: [at('::1', 7000)] },
  },
  'redis://:a/b@c:d%#@10.0.0.1': {
    ...{
      ...plain,
      topology: 'standalone',
      password: 'a/b@c:d%#',
      addresses: [at('10.0.0.1', 6379)],
    },
  },
  'redis+sentinel://a,b:1,[fe80::1]:2/main': {
    ...{ ...plain, topology: 'sentinel', masterName: 'main' },
    addresses: [at('a', 26379), at('b', 1), at('fe80::1', 2)],
  },
  'rediss+sentinel://u:p@a:26379/main/3': {
    ...{
      topology: 'sentinel',
      tls: true,
      username: 'u',
      password: 'p',
      addresses: [at('a', 26379)],
    },
    ...{ masterName: 'main', database: 3 },
  },
  'redis+cluster://a:7000,b:7001': {
    ...plain,
    topology: 'cluster',
    addresses: [at('a', 7000), at('b', 7001)],
  },
  'rediss+cluster://:p@a,b/': {
    ...{
      ...plain,
      topology: 'cluster',
      tls: true,
      password: 'p',
      addresses: [at('a', 6379), at('b', 6379)],
    },
  },
};

const REFUSED = [
  ...[
    '',
    'cache',
    'cache:6379',
    'redis:6379',
    'http://cache',
    'redis//cache',
    'redis:/cache',
    'Redis://cache',
  ],
  ...[
    'redis://',
    'redis:///0',
    'redis://:6379',
    'redis://u@cache',
    'redis://cache?db=1',
    'redis://cache#1',
  ],
  ...[
    'redis://a,b',
    'redis://cache/main',
    'redis://cache/0/1',
    'redis://cache/12345',
    'redis://cache:port',
  ],
  ...[
    'redis://cache:0',
    'redis://cache:65536',
    'redis://cache:',
    'redis://[::g]',
    'redis://[::1',
    'redis://-cache',
  ],
  ...[
    'redis+sentinel://a,b',
    'redis+sentinel://a/',
    'redis+sentinel:///main',
    'redis+sentinel://a,/main',
  ],
  ...['redis+sentinel://a, b/main', 'redis+sentinel://a/main/db', 'redis+sentinel://a/main/0/1'],
  ...[
    'redis+cluster://',
    'redis+cluster://a,,b',
    'redis+cluster://a/0',
    'redis+cluster://a/main',
    'redis+other://a',
  ],
  ...['redis+cluster://a;b', 'redis+tls://a', 'sentinel://a/main'],
];

describe('REDIS_URL', () => {
  it.each(Object.entries(ACCEPTED))('%s is taken apart', (url, target) => {
    expect(parseRedisUrl(url)).toEqual(target);
    expect(loadConfig({ REDIS_URL: url }).redisUrl).toBe(url);
  });

  it.each(REFUSED)('%s is refused', (url) => {
    expect(parseRedisUrl(url)).toBeUndefined();
    if (url !== '') expect(() => loadConfig({ REDIS_URL: url })).toThrow(ConfigError);
  });
});
