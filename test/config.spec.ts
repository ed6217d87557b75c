/**
 * The environment: each variable's default, the values it accepts and rejects, and that an error is
 * one line which an operator can act on. .env.example is compared with the same table.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { type Config, ConfigError, loadConfig, VARIABLE_NAMES } from '../src/config.js';
import { REPOSITORY } from './support/repository.js';

interface Variable {
  readonly read: (config: Config) => unknown;
  readonly default: unknown;
  /** Text, or text and value. A text alone is its own value. */
  readonly accepts: readonly (string | readonly [text: string, value: unknown])[];
  readonly rejects: readonly string[];
  /** Variables that must be set together with it. */
  readonly beside?: Readonly<Record<string, string>>;
}

const numbers = (min: number, max: number): Pick<Variable, 'accepts' | 'rejects'> => ({
  accepts: [min, min + 1, max].map((value) => [String(value), value] as const),
  rejects: [
    ...[min - 1, max + 1, min + 0.5].map(String),
    ...['many', '1e2', '0x10', '+5', '-5', ' 5', '5 ', '5s', '٥', 'NaN', 'Infinity'],
    ...['9'.repeat(16), '9'.repeat(400)],
  ],
});

const words = (...accepts: string[]): Pick<Variable, 'accepts' | 'rejects'> => ({
  accepts,
  rejects: [
    ...accepts.map((word) => word.toUpperCase()),
    ...[`${accepts[0]} `, 'true', 'constructor', '__proto__'],
  ],
});

const TLS = { certFile: '/tls/a.crt', keyFile: '/tls/a.key' };
const PHRASE = 'a phrase of the tests';
const SECONDS_OF_A_WEEK = 604_800;
const SECONDS_OF_A_YEAR = 31_536_000;

const VARIABLES: Readonly<Record<string, Variable>> = {
  HOST: {
    read: (config) => config.host,
    default: '127.0.0.1',
    accepts: ['0.0.0.0', '::', '::1', 'localhost', 'holdfast.internal', 'node-1', 'a'],
    rejects: ['http://localhost', '127.0.0.1:3000', '[::1]', 'two words', '-a', 'a_b', 'a/b', ' '],
  },
  PORT: { read: (config) => config.port, default: 3000, ...numbers(0, 65_535) },
  METRICS_PORT: {
    read: ({ metrics }) => metrics && [metrics.host, metrics.port].filter(Boolean).join(' '),
    default: undefined,
    accepts: [
      ['1', '1'],
      ['65535', '65535'],
      ['10.0.0.5:9464', '10.0.0.5 9464'],
      ['localhost:9464', 'localhost 9464'],
      ['[::1]:9464', '::1 9464'],
    ],
    rejects: [
      ...['0', '65536', '-1', '1.5', 'x', ':9464', 'host:', '::1:9464', '[::1]', '[host]:9464'],
      ...['10.0.0.5:0', '10.0.0.5:65536', 'a b:9464', 'http://10.0.0.5:9464'],
    ],
  },
  DATABASE_URL: {
    read: (config) => config.databaseUrl,
    default: undefined,
    accepts: [
      'postgres://user:secret@db:5432/holdfast',
      'postgresql://db/holdfast?sslmode=require',
      'postgres:///holdfast?host=/run/postgresql',
    ],
    rejects: [
      'db:5432',
      'postgres:db',
      'mysql://db/holdfast',
      'jdbc:postgresql://db/holdfast',
      'postgres://db:port/a',
      ' ',
    ],
  },
  DATABASE_REPLICA_URLS: {
    read: (config) => config.databaseReplicaUrls,
    default: [],
    accepts: [
      ['postgres://one/a', ['postgres://one/a']],
      ['postgres://one/a, postgresql://two/a', ['postgres://one/a', 'postgresql://two/a']],
    ],
    rejects: [
      'one,two',
      'postgres://one/a,',
      ',',
      'postgres://one/a,http://two/a',
      'postgres://one/a postgres://two/a',
    ],
  },
  DATABASE_POOL: { read: (config) => config.databasePool, default: 10, ...numbers(2, 500) },
  DATA_DIR: {
    read: (config) => config.dataDir,
    default: '.data',
    accepts: ['/var/lib/holdfast', 'a folder'],
    rejects: [],
  },
  MIGRATIONS: { read: (config) => config.migrations, default: 'auto', ...words('auto', 'manual') },
  REDIS_URL: {
    read: (config) => config.redisUrl,
    default: undefined,
    accepts: [
      'redis://cache',
      'redis://user:secret@cache:6379/2',
      'rediss://cache:6380',
      'redis://[::1]:6379',
    ],
    rejects: [
      'cache:6379',
      'redis:6379',
      'redis://',
      'http://cache',
      'redis//cache',
      'redis://cache:port',
    ],
  },
  RABBITMQ_URL: {
    read: (config) => config.rabbitmqUrl,
    default: undefined,
    accepts: ['amqp://broker', 'amqps://user:secret@broker:5671/vhost'],
    rejects: ['broker', 'amqp:broker', 'amqp://', 'mqtt://broker', 'http://broker:15672'],
  },
  OUTBOX_RETENTION_DAYS: {
    read: (config) => config.outboxRetentionDays,
    default: 30,
    ...numbers(0, 3_650),
  },
  CACHE_TTL_USERS: {
    read: (config) => config.cacheTtl.user,
    default: 3600,
    ...numbers(1, SECONDS_OF_A_WEEK),
  },
  CACHE_TTL_SESSIONS: {
    read: (config) => config.cacheTtl.session,
    default: 3600,
    ...numbers(1, SECONDS_OF_A_WEEK),
  },
  CACHE_TTL_ORDERS: {
    read: (config) => config.cacheTtl.order,
    default: 1800,
    ...numbers(1, SECONDS_OF_A_WEEK),
  },
  CACHE_DEGRADED_WRITES: {
    read: (config) => config.cacheDegradedWrites,
    default: 'wait',
    ...words('wait', 'reject'),
  },
  CACHE_NEAR: {
    read: (config) => config.cacheNear,
    default: [],
    accepts: [
      ['session', ['session']],
      ['session, user,order', ['session', 'user', 'order']],
    ],
    rejects: ['sessions', 'on', 'session user', 'session,'],
  },
  SESSION_IDLE_SECONDS: {
    read: (config) => config.sessionIdleSeconds,
    default: 3600,
    ...numbers(1, SECONDS_OF_A_YEAR),
  },
  SESSION_ABSOLUTE_SECONDS: {
    read: (config) => config.sessionAbsoluteSeconds,
    default: 86_400,
    ...numbers(1, SECONDS_OF_A_YEAR),
  },
  RATE_LIMIT_PER_MINUTE: {
    read: (config) => config.rateLimitPerMinute,
    default: 600,
    ...numbers(0, 10_000_000),
  },
  ADMIN_USERNAME: {
    read: (config) => config.admin?.username,
    default: undefined,
    accepts: ['abc', 'root-admin', 'a_b.c-1', 'x'.repeat(32)],
    rejects: ['ab', 'x'.repeat(33), 'Admin', 'an admin', 'ädmin', 'admin@example.com'],
    beside: { ADMIN_PASSWORD: PHRASE },
  },
  ADMIN_PASSWORD: {
    read: (config) => config.admin?.password,
    default: undefined,
    accepts: ['x'.repeat(15), '⚓'.repeat(15), '🚢'.repeat(128), ' spaces count as well '],
    rejects: ['x'.repeat(14), '🚢'.repeat(14), 'x'.repeat(129)],
    beside: { ADMIN_USERNAME: 'root-admin' },
  },
  TRUST_PROXY: {
    read: (config) => config.trustProxy,
    default: [],
    accepts: [
      ['127.0.0.1', ['127.0.0.1']],
      ['10.0.0.0/8, fd00::/8,loopback', ['10.0.0.0/8', 'fd00::/8', 'loopback']],
      ['linklocal,uniquelocal', ['linklocal', 'uniquelocal']],
    ],
    rejects: [
      ...['true', '*', '1', 'proxy.internal', '10.0.0.0/33', '::/129', '10.0.0.0/'],
      ...['10.0.0.0/8/8', '10.0.0.1,', '10.0/8'],
    ],
  },
  CORS_ORIGINS: {
    read: (config) => config.corsOrigins,
    default: [],
    accepts: [
      ['https://app.example', ['https://app.example']],
      ['http://localhost:5173', ['http://localhost:5173']],
      [
        'https://a.example, https://b.example:8443',
        ['https://a.example', 'https://b.example:8443'],
      ],
      ['http://[::1]:3000', ['http://[::1]:3000']],
    ],
    rejects: [
      ...[
        '*',
        'null',
        'app.example',
        'https://app.example/',
        'https://app.example/path',
        'https://',
      ],
      ...[
        'https://APP.example',
        'https://app.example:443',
        'ftp://app.example',
        'https://a b.example',
      ],
      ...['https://app.example,', 'https://*.example', 'https://me@app.example', ','],
    ],
  },
  SHUTDOWN_GRACE_SECONDS: {
    read: (config) => config.shutdownGraceSeconds,
    default: 10,
    ...numbers(0, 600),
  },
  LOG_LEVEL: {
    read: (config) => config.logLevel,
    default: 'info',
    ...words('fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'),
  },
  LOG_FORMAT: { read: (config) => config.logFormat, default: 'json', ...words('pretty', 'json') },
  OTEL_EXPORTER_OTLP_ENDPOINT: {
    read: (config) => config.otlpEndpoint,
    default: undefined,
    accepts: ['http://collector:4318', 'https://collector/v1'],
    rejects: ['collector:4318', 'grpc://collector', 'http:', 'http://'],
  },
  TLS_CERT_FILE: {
    read: (config) => config.tls?.certFile,
    default: undefined,
    accepts: [TLS.certFile],
    rejects: [],
    beside: { TLS_KEY_FILE: TLS.keyFile },
  },
  TLS_KEY_FILE: {
    read: (config) => config.tls?.keyFile,
    default: undefined,
    accepts: [TLS.keyFile],
    rejects: [],
    beside: { TLS_CERT_FILE: TLS.certFile },
  },
};

const load = (env: NodeJS.ProcessEnv): Config => loadConfig(env, false);

/** The lines of the ConfigError; empty when the environment is accepted. */
function errorsOf(env: NodeJS.ProcessEnv): readonly string[] {
  try {
    load(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.lines;
    throw error;
  }
  return [];
}

const WRONG = /^([A-Z_]+) must be (.+), for example \1=(.+)$/;
const MISSING = /^([A-Z_]+) is required with ([A-Z_]+)\. It must be (.+), for example \1=(.+)$/;

const namesOf = (lines: readonly string[], form: RegExp): (string | undefined)[] =>
  lines.map((line) => form.exec(line)?.[1]);

type Case = [name: string, variable: Variable];
const CASES: Case[] = Object.entries(VARIABLES);
const CHECKED: Case[] = CASES.filter(([, { rejects }]) => rejects.length > 0);

describe('the table of this test', () => {
  it('has every variable', () => {
    expect(Object.keys(VARIABLES).sort()).toEqual([...VARIABLE_NAMES].sort());
  });
});

describe('a variable', () => {
  it.each(CASES)(
    '%s has its default when it is not set, or set to nothing',
    (name, { read, default: fallback }) => {
      const configs = [load({}), load({ [name]: undefined }), load({ [name]: '' })];
      expect(configs.map(read)).toEqual([fallback, fallback, fallback]);
      expect(load({ [name]: '' })).toEqual(load({}));
    },
  );

  const accepted = CASES.flatMap(([name, { read, accepts, beside }]) =>
    accepts.map((form) => {
      const [text, value] = typeof form === 'string' ? [form, form] : form;
      return { name, text, value, read, beside };
    }),
  );
  it.each(accepted)('$name accepts $text', ({ name, text, value, read, beside }) => {
    expect(read(load({ [name]: text, ...beside }))).toEqual(value);
  });

  const rejected = CHECKED.flatMap(([name, { rejects, beside }]) =>
    rejects.map((text) => ({ name, text, beside })),
  );
  it.each(rejected)(
    '$name rejects "$text" with one line: name, form, example',
    ({ name, text, beside }) => {
      const lines = errorsOf({ [name]: text, ...beside });
      expect(lines).toEqual([expect.stringMatching(WRONG)]);
      expect(namesOf(lines, WRONG)).toEqual([name]);
    },
  );

  it.each(CHECKED)('%s accepts the example of its error', (name, { beside }) => {
    const [line = ''] = errorsOf({ [name]: '\u0000', ...beside });
    const example = WRONG.exec(line)?.[3];
    expect(example).toEqual(expect.stringMatching(/./));
    expect(errorsOf({ [name]: example, ...beside })).toEqual([]);
  });
});

describe('loadConfig with a wrong environment', () => {
  it('reports each wrong variable in a line of its own, and no other', () => {
    const lines = errorsOf({
      PORT: 'x',
      DATABASE_POOL: '1',
      REDIS_URL: 'x',
      LOG_LEVEL: 'loud',
      HOST: 'localhost',
    });
    expect(namesOf(lines, WRONG)).toEqual(['PORT', 'DATABASE_POOL', 'REDIS_URL', 'LOG_LEVEL']);
    expect(new ConfigError(lines).message).toBe(lines.join('\n'));
  });

  it('reports all variables when all are wrong', () => {
    const env = Object.fromEntries(CHECKED.map(([name, { rejects }]) => [name, rejects[0]]));
    const names = CHECKED.map(([name]) => name);
    expect(namesOf(errorsOf(env), WRONG)).toEqual(
      VARIABLE_NAMES.filter((name) => names.includes(name)),
    );
  });

  it('never repeats a value, because some are secrets', () => {
    const secret = 'hunter2-hunter2';
    const env = Object.fromEntries(
      VARIABLE_NAMES.map((name) => [name, `\u0007${secret} ${secret.repeat(20)}`]),
    );
    let error: unknown;
    try {
      load(env);
    } catch (thrown) {
      error = thrown;
    }
    const { message, lines, stack } = error as ConfigError;
    expect(error).toBeInstanceOf(ConfigError);
    expect(lines.length).toBeGreaterThan(15);
    expect([message, stack, JSON.stringify(error), ...lines].join('\n')).not.toContain('hunter2');
  });

  it.each([
    ['ADMIN_USERNAME', 'root-admin', 'ADMIN_PASSWORD'],
    ['ADMIN_PASSWORD', PHRASE, 'ADMIN_USERNAME'],
    ['TLS_CERT_FILE', TLS.certFile, 'TLS_KEY_FILE'],
    ['TLS_KEY_FILE', TLS.keyFile, 'TLS_CERT_FILE'],
  ])('with %s=%s alone reports that %s is required', (name, value, missing) => {
    const [line = '', ...others] = errorsOf({ [name]: value, [missing]: '' });
    expect(MISSING.exec(line)?.slice(1, 3)).toEqual([missing, name]);
    expect(others).toEqual([]);
  });

  it('reports a wrong half of a pair and the missing half', () => {
    const lines = errorsOf({ ADMIN_USERNAME: 'A' });
    expect(lines).toEqual([expect.stringMatching(WRONG), expect.stringMatching(MISSING)]);
    expect(lines.map((line) => line.split(' ')[0])).toEqual(['ADMIN_USERNAME', 'ADMIN_PASSWORD']);
  });
});

describe('loadConfig', () => {
  it('ignores variables of other programs', () => {
    const env = { PATH: '/bin', NODE_ENV: 'production', port: 'x', HOLDFAST: '1' };
    expect(load(env)).toEqual(load({}));
  });

  it.each([
    ['defaults', {}],
    [
      'every optional part set',
      {
        ADMIN_USERNAME: 'root-admin',
        ADMIN_PASSWORD: PHRASE,
        TLS_CERT_FILE: 'a',
        TLS_KEY_FILE: 'b',
        TRUST_PROXY: '::1',
        DATABASE_REPLICA_URLS: 'postgres://one/a',
      },
    ],
  ])('with %s returns a deeply frozen configuration', (_, env) => {
    const config = load(env);
    const objects = [config, ...Object.values(config)].filter((value) => typeof value === 'object');
    expect(objects.filter((value) => !Object.isFrozen(value))).toEqual([]);
    expect(() => Object.assign(config, { port: 1 })).toThrow(TypeError);
  });

  it.each([
    [undefined, true, 'pretty'],
    [undefined, false, 'json'],
    ['json', true, 'json'],
    ['pretty', false, 'pretty'],
  ])('with LOG_FORMAT=%s and isTerminal=%s logs %s', (LOG_FORMAT, isTerminal, expected) => {
    expect(loadConfig({ LOG_FORMAT }, isTerminal).logFormat).toBe(expected);
  });

  it('reads the environment of the process by default', () => {
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
    new URL('.env.example', REPOSITORY),
    'utf8',
  ).split(/^# -+ docker compose only/m);

  const assignmentsOf = (section: string): [name: string, value: string][] =>
    [...section.matchAll(/^#?\s?([A-Z][A-Z0-9_]*)=(.*)$/gm)].map(([, name = '', value = '']) => [
      name,
      value,
    ]);
  const namesIn = (section: string): string[] => assignmentsOf(section).map(([name]) => name);

  it('lists every variable once, in the order of config.ts', () => {
    expect(namesIn(service)).toEqual(VARIABLE_NAMES);
  });

  it('lists the variables of compose in a section of their own', () => {
    expect(namesIn(compose).length).toBeGreaterThan(0);
    expect(namesIn(compose).filter((name) => VARIABLE_NAMES.includes(name))).toEqual([]);
  });

  it('contains only defaults', () => {
    expect(load(Object.fromEntries(assignmentsOf(service)))).toEqual(load({}));
  });

  it.each(VARIABLE_NAMES)('explains %s, with its default in parentheses', (name) => {
    const [, comment = ''] = new RegExp(`((?:^#.*\n)+)${name}=`, 'm').exec(service) ?? [];
    expect(comment).toMatch(/\(.+\)/);
  });
});
