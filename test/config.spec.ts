/**
 * The environment: each variable's default, what it accepts and what it refuses, and that a refusal is one line which a person
 * can act on. The table here is the documentation's; .env.example is held to it too.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { type Config, ConfigError, loadConfig, VARIABLE_NAMES } from '../src/config.js';

interface Variable {
  readonly of: (config: Config) => unknown;
  readonly default: unknown;
  /** Text → value; a plain text stands for itself. */
  readonly accepts: readonly (string | readonly [string, unknown])[];
  readonly refuses: readonly string[];
  /** Given together with it. */
  readonly beside?: Readonly<Record<string, string>>;
}

const numbers = (least: number, most: number): Pick<Variable, 'accepts' | 'refuses'> => ({
  accepts: [least, least + 1, most].map((value) => [String(value), value] as const),
  refuses: [
    ...[least - 1, most + 1, least + 0.5].map(String),
    ...[
      'many',
      '1e2',
      '0x10',
      '+5',
      '-5',
      ' 5',
      '5 ',
      '5s',
      '٥',
      'NaN',
      'Infinity',
      '9'.repeat(16),
      '9'.repeat(400),
    ],
  ],
});
const words = (...accepts: string[]): Pick<Variable, 'accepts' | 'refuses'> => ({
  accepts,
  refuses: [
    ...accepts.map((word) => word.toUpperCase()),
    `${accepts[0]} `,
    'true',
    'constructor',
    '__proto__',
  ],
});
const TLS = { certFile: '/tls/a.crt', keyFile: '/tls/a.key' };
const PHRASE = 'a phrase of the tests';

const VARIABLES: Readonly<Record<string, Variable>> = {
  HOST: {
    of: (config) => config.host,
    default: '127.0.0.1',
    accepts: ['0.0.0.0', '::', '::1', 'localhost', 'holdfast.internal', 'node-1', 'a'],
    refuses: ['http://localhost', '127.0.0.1:3000', '[::1]', 'two words', '-a', 'a_b', 'a/b', ' '],
  },
  PORT: { of: (config) => config.port, default: 3000, ...numbers(0, 65_535) },
  DATABASE_URL: {
    of: (config) => config.databaseUrl,
    default: undefined,
    accepts: [
      'postgres://user:secret@db:5432/holdfast',
      'postgresql://db/holdfast?sslmode=require',
      'postgres:///holdfast?host=/run/postgresql',
    ],
    refuses: [
      'db:5432',
      'postgres:db',
      'mysql://db/holdfast',
      'jdbc:postgresql://db/holdfast',
      'postgres://db:port/a',
      ' ',
    ],
  },
  DATABASE_REPLICA_URLS: {
    of: (config) => config.databaseReplicaUrls,
    default: [],
    accepts: [
      ['postgres://one/a', ['postgres://one/a']],
      ['postgres://one/a, postgresql://two/a', ['postgres://one/a', 'postgresql://two/a']],
    ],
    refuses: [
      'one,two',
      'postgres://one/a,',
      ',',
      'postgres://one/a,http://two/a',
      'postgres://one/a postgres://two/a',
    ],
  },
  DATABASE_POOL: { of: (config) => config.databasePool, default: 10, ...numbers(2, 500) },
  DATA_DIR: {
    of: (config) => config.dataDir,
    default: '.data',
    accepts: ['/var/lib/holdfast', 'a folder'],
    refuses: [],
  },
  MIGRATIONS: { of: (config) => config.migrations, default: 'auto', ...words('auto', 'manual') },
  REDIS_URL: {
    of: (config) => config.redisUrl,
    default: undefined,
    accepts: [
      'redis://cache',
      'redis://user:secret@cache:6379/2',
      'rediss://cache:6380',
      'redis://[::1]:6379',
    ],
    refuses: [
      'cache:6379',
      'redis:6379',
      'redis://',
      'http://cache',
      'redis//cache',
      'redis://cache:port',
    ],
  },
  RABBITMQ_URL: {
    of: (config) => config.rabbitmqUrl,
    default: undefined,
    accepts: ['amqp://broker', 'amqps://user:secret@broker:5671/vhost'],
    refuses: ['broker', 'amqp:broker', 'amqp://', 'mqtt://broker', 'http://broker:15672'],
  },
  CACHE_TTL_USERS: { of: (config) => config.cacheTtl.user, default: 3600, ...numbers(1, 604_800) },
  CACHE_TTL_SESSIONS: {
    of: (config) => config.cacheTtl.session,
    default: 3600,
    ...numbers(1, 604_800),
  },
  CACHE_TTL_ORDERS: {
    of: (config) => config.cacheTtl.order,
    default: 1800,
    ...numbers(1, 604_800),
  },
  CACHE_DEGRADED_WRITES: {
    of: (config) => config.cacheDegradedWrites,
    default: 'allow',
    ...words('allow', 'reject'),
  },
  SESSION_IDLE_SECONDS: {
    of: (config) => config.sessionIdleSeconds,
    default: 3600,
    ...numbers(1, 31_536_000),
  },
  SESSION_ABSOLUTE_SECONDS: {
    of: (config) => config.sessionAbsoluteSeconds,
    default: 86_400,
    ...numbers(1, 31_536_000),
  },
  RATE_LIMIT_PER_MINUTE: {
    of: (config) => config.rateLimitPerMinute,
    default: 600,
    ...numbers(0, 10_000_000),
  },
  ADMIN_USERNAME: {
    of: (config) => config.admin?.username,
    default: undefined,
    accepts: ['abc', 'root-admin', 'a_b.c-1', 'x'.repeat(32)],
    refuses: ['ab', 'x'.repeat(33), 'Admin', 'an admin', 'ädmin', 'admin@example.com'],
    beside: { ADMIN_PASSWORD: PHRASE },
  },
  ADMIN_PASSWORD: {
    of: (config) => config.admin?.password,
    default: undefined,
    accepts: ['x'.repeat(15), '⚓'.repeat(15), '🚢'.repeat(128), ' spaces count as well '],
    refuses: ['x'.repeat(14), '🚢'.repeat(14), 'x'.repeat(129)],
    beside: { ADMIN_USERNAME: 'root-admin' },
  },
  TRUST_PROXY: {
    of: (config) => config.trustProxy,
    default: [],
    accepts: [
      ['127.0.0.1', ['127.0.0.1']],
      ['10.0.0.0/8, fd00::/8,loopback', ['10.0.0.0/8', 'fd00::/8', 'loopback']],
      ['linklocal,uniquelocal', ['linklocal', 'uniquelocal']],
    ],
    refuses: [
      'true',
      '*',
      '1',
      'proxy.internal',
      '10.0.0.0/33',
      '::/129',
      '10.0.0.0/',
      '10.0.0.0/8/8',
      '10.0.0.1,',
      '10.0/8',
    ],
  },
  SHUTDOWN_GRACE_SECONDS: {
    of: (config) => config.shutdownGraceSeconds,
    default: 10,
    ...numbers(0, 600),
  },
  LOG_LEVEL: {
    of: (config) => config.logLevel,
    default: 'info',
    ...words('fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'),
  },
  LOG_FORMAT: { of: (config) => config.logFormat, default: 'json', ...words('pretty', 'json') },
  METRICS_PORT: { of: (config) => config.metricsPort, default: undefined, ...numbers(1, 65_535) },
  OTEL_EXPORTER_OTLP_ENDPOINT: {
    of: (config) => config.otlpEndpoint,
    default: undefined,
    accepts: ['http://collector:4318', 'https://collector/v1'],
    refuses: ['collector:4318', 'grpc://collector', 'http:', 'http://'],
  },
  TLS_CERT_FILE: {
    of: (config) => config.tls?.certFile,
    default: undefined,
    accepts: [TLS.certFile],
    refuses: [],
    beside: { TLS_KEY_FILE: TLS.keyFile },
  },
  TLS_KEY_FILE: {
    of: (config) => config.tls?.keyFile,
    default: undefined,
    accepts: [TLS.keyFile],
    refuses: [],
    beside: { TLS_CERT_FILE: TLS.certFile },
  },
};

const load = (env: NodeJS.ProcessEnv): Config => loadConfig(env, false);

function faultsOf(env: NodeJS.ProcessEnv): readonly string[] {
  try {
    load(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.lines;
    throw error;
  }
  return [];
}

const LINE = /^([A-Z_]+) must be (.+), for example \1=(.+)$/;
/** The example that a refusal of this variable shows. */
const exampleOf = (name: string): string =>
  faultsOf({ [name]: '\u0000', ...VARIABLES[name]?.beside })
    .map((line) => LINE.exec(line))
    .find((match) => match?.[1] === name)?.[3] ?? '';

it('the table here has every variable', () => {
  expect(Object.keys(VARIABLES).sort()).toEqual([...VARIABLE_NAMES].sort());
});

describe.each(Object.entries(VARIABLES))(
  '%s',
  (name, { of, default: fallback, accepts, refuses, beside = {} }) => {
    it('has its default', () => {
      expect(of(load({}))).toEqual(fallback);
    });

    it('set to nothing counts as not set', () => {
      expect(of(load({ [name]: '' }))).toEqual(fallback);
      expect(load({ [name]: '' })).toEqual(load({}));
      expect(of(load({ [name]: undefined }))).toEqual(fallback);
    });

    it('takes every form that it should', () => {
      for (const form of accepts) {
        const [text, value] = typeof form === 'string' ? [form, form] : form;
        expect([text, of(load({ [name]: text, ...beside }))]).toEqual([text, value]);
      }
    });

    if (refuses.length > 0)
      it('refuses any other with one line: its name, its form, an example', () => {
        for (const text of refuses) {
          const lines = faultsOf({ [name]: text, ...beside });
          expect([text, lines]).toEqual([text, [expect.stringMatching(LINE)]]);
          expect(lines[0]).toMatch(new RegExp(`^${name} must be `));
        }
      });

    if (refuses.length > 0)
      it('is given an example that it takes', () => {
        const example = exampleOf(name);
        expect(example).not.toBe('');
        expect(faultsOf({ [name]: example, ...beside })).toEqual([]);
      });
  },
);

describe('a start with a wrong environment', () => {
  it('names every variable at fault, each in a line of its own', () => {
    const env = {
      PORT: 'x',
      DATABASE_POOL: '1',
      REDIS_URL: 'x',
      LOG_LEVEL: 'loud',
      HOST: 'localhost',
    };
    const lines = faultsOf(env);
    expect(lines.map((line) => LINE.exec(line)?.[1])).toEqual([
      'PORT',
      'DATABASE_POOL',
      'REDIS_URL',
      'LOG_LEVEL',
    ]);
    expect(new ConfigError(lines).message).toBe(lines.join('\n'));
  });

  it('names all of them when all are wrong', () => {
    const wrong = Object.entries(VARIABLES).filter(([, { refuses }]) => refuses.length > 0);
    const lines = faultsOf(
      Object.fromEntries(wrong.map(([name, { refuses }]) => [name, refuses[0]])),
    );
    expect(lines.map((line) => LINE.exec(line)?.[1])).toEqual(
      VARIABLE_NAMES.filter((name) => wrong.some(([one]) => one === name)),
    );
  });

  it('never repeats a value: some are secrets', () => {
    const secret = 'hunter2-hunter2';
    const env = Object.fromEntries(
      VARIABLE_NAMES.map((name) => [name, `\u0007${secret} ${secret.repeat(20)}`]),
    );
    try {
      load(env);
      throw new Error('accepted');
    } catch (error) {
      const { message, lines, stack } = error as ConfigError;
      expect(error).toBeInstanceOf(ConfigError);
      expect(lines.length).toBeGreaterThan(15);
      for (const text of [message, String(stack), JSON.stringify(error), ...lines])
        expect(text).not.toContain('hunter2');
    }
  });

  it('tells of a half of a pair by naming the half that is missing', () => {
    const missing = (env: NodeJS.ProcessEnv): (string | undefined)[] =>
      faultsOf(env).map((line) => LINE.exec(line)?.[1]);
    expect(missing({ ADMIN_USERNAME: 'root-admin' })).toEqual(['ADMIN_PASSWORD']);
    expect(missing({ ADMIN_PASSWORD: PHRASE })).toEqual(['ADMIN_USERNAME']);
    expect(missing({ ADMIN_PASSWORD: PHRASE, ADMIN_USERNAME: '' })).toEqual(['ADMIN_USERNAME']);
    expect(missing({ TLS_CERT_FILE: TLS.certFile })).toEqual(['TLS_KEY_FILE']);
    expect(missing({ TLS_KEY_FILE: TLS.keyFile })).toEqual(['TLS_CERT_FILE']);
    expect(missing({ ADMIN_USERNAME: 'A' }).sort()).toEqual(['ADMIN_PASSWORD', 'ADMIN_USERNAME']);
    expect(faultsOf({ ADMIN_USERNAME: 'A' })).toHaveLength(2);
    for (const line of faultsOf({ TLS_CERT_FILE: TLS.certFile }))
      expect(line).toContain('together with TLS_CERT_FILE');
  });

  it('minds no variable of others', () => {
    expect(load({ PATH: '/bin', NODE_ENV: 'production', port: 'x', HOLDFAST: '1' })).toEqual(
      load({}),
    );
  });
});

describe('what was read', () => {
  it('is frozen, to the last list', () => {
    const env = {
      ADMIN_USERNAME: 'root-admin',
      ADMIN_PASSWORD: PHRASE,
      TLS_CERT_FILE: 'a',
      TLS_KEY_FILE: 'b',
      TRUST_PROXY: '::1',
    };
    for (const config of [load({}), load({ ...env, DATABASE_REPLICA_URLS: 'postgres://one/a' })]) {
      const values: unknown[] = [config, ...Object.values(config)];
      expect(
        values.filter((value) => typeof value === 'object' && !Object.isFrozen(value)),
      ).toEqual([]);
      expect(() => Object.assign(config, { port: 1 })).toThrow(TypeError);
    }
  });

  it('is pretty on a terminal and JSON elsewhere, unless told', () => {
    expect([loadConfig({}, true).logFormat, loadConfig({}, false).logFormat]).toEqual([
      'pretty',
      'json',
    ]);
    expect([
      loadConfig({ LOG_FORMAT: 'json' }, true),
      loadConfig({ LOG_FORMAT: 'pretty' }, false),
    ]).toMatchObject([{ logFormat: 'json' }, { logFormat: 'pretty' }]);
  });

  it('comes from the process when nothing is passed', () => {
    const before = process.env.SHUTDOWN_GRACE_SECONDS;
    try {
      process.env.SHUTDOWN_GRACE_SECONDS = '42';
      expect(loadConfig().shutdownGraceSeconds).toBe(42);
    } finally {
      if (before === undefined) delete process.env.SHUTDOWN_GRACE_SECONDS;
      else process.env.SHUTDOWN_GRACE_SECONDS = before;
    }
  });
});

describe('.env.example', () => {
  const [service = '', compose = ''] = readFileSync(
    new URL('../.env.example', import.meta.url),
    'utf8',
  ).split(/^# -+ docker compose only/m);
  const assigned = (text: string): [string, string][] =>
    [...text.matchAll(/^#?\s?([A-Z][A-Z0-9_]*)=(.*)$/gm)].map(([, name = '', value = '']) => [
      name,
      value,
    ]);

  it('lists every variable once, and no other', () => {
    expect(
      assigned(service)
        .map(([name]) => name)
        .sort(),
    ).toEqual([...VARIABLE_NAMES].sort());
  });

  it('keeps what only compose needs apart', () => {
    expect(compose).not.toBe('');
    expect(assigned(compose).filter(([name]) => VARIABLE_NAMES.includes(name))).toEqual([]);
  });

  it('copied as it is, changes nothing', () => {
    expect(load(Object.fromEntries(assigned(service)))).toEqual(load({}));
  });

  it('explains each, with its default', () => {
    for (const [name] of assigned(service)) {
      const [, comment = ''] = new RegExp(`((?:^#.*\n)+)${name}=`, 'm').exec(service) ?? [];
      expect([name, comment]).toEqual([name, expect.stringMatching(/\(.+\)/)]);
    }
  });
});
