/**
 * Every environment variable, read and validated once, here and nowhere else (test/architecture.spec.ts holds it). A wrong
 * value stops the start with one line for each variable: its name, the form it must have, an example. The table below also
 * feeds .env.example's test, so that what is documented is what is read.
 */
import { isIP } from 'node:net';
import { customCleanEnv, makeValidator, EnvMissingError } from 'envalid';

/** What the process was told, typed and frozen. Injectable: `constructor(private readonly config: Config)`. */
export abstract class Config {
  abstract readonly host: string;
  /** 0: any free port, printed at the start. */
  abstract readonly port: number;
  /** Absent: an embedded PostgreSQL under {@link dataDir}. */
  abstract readonly databaseUrl: string | undefined;
  abstract readonly databaseReplicaUrls: readonly string[];
  /** Connections of one process to the primary. */
  abstract readonly databasePool: number;
  abstract readonly dataDir: string;
  abstract readonly migrations: 'auto' | 'manual';
  /** Absent: the cache protocol in this process's memory. */
  abstract readonly redisUrl: string | undefined;
  /** Absent: events stay in the outbox. */
  abstract readonly rabbitmqUrl: string | undefined;
  /** Seconds a cached entry lives, by entity name. */
  abstract readonly cacheTtl: Readonly<Record<'user' | 'session' | 'order', number>>;
  abstract readonly cacheDegradedWrites: 'allow' | 'reject';
  abstract readonly sessionIdleSeconds: number;
  abstract readonly sessionAbsoluteSeconds: number;
  /** 0 turns the limits off. */
  abstract readonly rateLimitPerMinute: number;
  abstract readonly admin: { readonly username: string; readonly password: string } | undefined;
  /** Addresses and networks of the proxies whose X-Forwarded-* count. */
  abstract readonly trustProxy: readonly string[];
  abstract readonly shutdownGraceSeconds: number;
  abstract readonly logLevel: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';
  abstract readonly logFormat: 'pretty' | 'json';
  abstract readonly metricsPort: number | undefined;
  abstract readonly otlpEndpoint: string | undefined;
  abstract readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
}

/** The environment is not one the service can start with. `lines` has one line for each variable at fault. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  constructor(readonly lines: readonly string[]) {
    super(lines.join('\n'));
  }
}

/** One variable: how its text becomes a value, what a person must write, and an example that is accepted. */
interface Form {
  readonly desc: string;
  readonly example: string;
  readonly default?: unknown;
}

const check = <T>(parse: (text: string) => T | undefined) =>
  makeValidator<T>((text) => {
    const value = parse(text);
    if (value === undefined) throw new Error('form');
    return value;
  });

const integer = (min: number, max: number) =>
  check((text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
    return value >= min && value <= max ? value : undefined;
  });
const choice = <const T extends string>(...words: T[]) =>
  check((text) => words.find((word) => word === text));
const url = (...schemes: string[]) =>
  check((text) => {
    // "redis:6379" parses too, as a scheme and a path: without a host it is not what was meant.
    const { protocol, hostname } = URL.canParse(text)
      ? new URL(text)
      : { protocol: '', hostname: '' };
    return schemes.includes(protocol) && hostname !== '' ? text : undefined;
  });
const list = <T>(one: (text: string) => T | undefined) =>
  check((text) => {
    const values = text.split(',').map((part) => one(part.trim()));
    return values.every((value) => value !== undefined) ? (values as T[]) : undefined;
  });
const text = check((value) => (value.length > 0 ? value : undefined));
const host = check((value) =>
  isIP(value) !== 0 || /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/i.test(value) ? value : undefined,
);
const username = check((value) => (/^[a-z0-9_.-]{3,32}$/.test(value) ? value : undefined));
const password = check((value) =>
  [...value].length >= 15 && [...value].length <= 128 ? value : undefined,
);

const isPostgresUrl = (value: string): string | undefined =>
  URL.canParse(value) && /^postgres(ql)?:\/\/\S+$/.test(value) ? value : undefined;
/**
 * `redis[s]://[[user]:password@]host[:port][/db]` for one server, `redis[s]+sentinel://[[user]:password@]host[:port],…/master[/db]`
 * for Sentinels, `redis[s]+cluster://[[user]:password@]host[:port],…` for a Cluster. cache/redis.url.ts takes it apart and
 * explains it; cache/ is made to be lifted out, so neither file knows the other, and redis-url.spec.ts holds them together.
 */
const isRedisUrl = (value: string): string | undefined => {
  const form = /^rediss?(\+sentinel|\+cluster)?:\/\/(?:[^:/]*:.*@)?([^@/?#]+)(\/[^?#]*)?$/;
  const [, kind = '', hosts = '', path = ''] = form.exec(value) ?? [];
  const each = hosts.split(',');
  const paths = { '': /^(\/\d{0,4})?$/, '+sentinel': /^\/[^/]+(\/\d{1,4})?$/, '+cluster': /^\/?$/ };
  const wellFormed =
    paths[kind as keyof typeof paths].test(path) &&
    (kind !== '' || each.length === 1) &&
    each.every(
      (one) =>
        /^[a-z\d[][\w.:\]-]*$/i.test(one) &&
        !/:0|[:.-]$/.test(one) &&
        URL.canParse(`redis://${one}`),
    );
  return wellFormed ? value : undefined;
};
const isNetwork = (value: string): string | undefined => {
  const [address = '', bits, ...rest] = value.split('/');
  const family = isIP(address);
  if (['loopback', 'linklocal', 'uniquelocal'].includes(value)) return value;
  if (family === 0 || rest.length > 0) return undefined;
  if (bits === undefined) return value;
  return /^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128) ? value : undefined;
};

const seconds = (fallback: number, desc: string): Form => ({
  default: fallback,
  desc,
  example: String(fallback),
});

const variables = {
  HOST: host({ default: '127.0.0.1', desc: 'a host name or an IP address', example: '0.0.0.0' }),
  PORT: integer(
    0,
    65535,
  )({ default: 3000, desc: 'a port from 0 to 65535, 0 for any free one', example: '3000' }),
  DATABASE_URL: check(isPostgresUrl)({
    default: undefined,
    desc: 'a postgres:// URL of the primary',
    example: 'postgres://user:password@127.0.0.1:5432/holdfast',
  }),
  DATABASE_REPLICA_URLS: list(isPostgresUrl)({
    default: [],
    desc: 'postgres:// URLs of replicas, separated by commas',
    example: 'postgres://user:password@replica-1:5432/holdfast',
  }),
  DATABASE_POOL: integer(
    2,
    500,
  )({ default: 10, desc: 'a whole number from 2 to 500', example: '10' }),
  DATA_DIR: text({
    default: '.data',
    desc: 'a folder for the embedded PostgreSQL',
    example: '.data',
  }),
  MIGRATIONS: choice(
    'auto',
    'manual',
  )({ default: 'auto', desc: '"auto" or "manual"', example: 'auto' }),
  REDIS_URL: check(isRedisUrl)({
    default: undefined,
    desc: 'a redis://host:port/db, redis+sentinel://host:port,host:port/master or redis+cluster://host:port,host:port URL (rediss for TLS)',
    example: 'redis://127.0.0.1:6379',
  }),
  RABBITMQ_URL: url(
    'amqp:',
    'amqps:',
  )({
    default: undefined,
    desc: 'an amqp:// or amqps:// URL',
    example: 'amqp://guest:guest@127.0.0.1:5672',
  }),
  CACHE_TTL_USERS: integer(1, 604_800)(seconds(3600, 'seconds from 1 to 604800')),
  CACHE_TTL_SESSIONS: integer(1, 604_800)(seconds(3600, 'seconds from 1 to 604800')),
  CACHE_TTL_ORDERS: integer(1, 604_800)(seconds(1800, 'seconds from 1 to 604800')),
  CACHE_DEGRADED_WRITES: choice(
    'allow',
    'reject',
  )({ default: 'allow', desc: '"allow" or "reject"', example: 'allow' }),
  SESSION_IDLE_SECONDS: integer(1, 31_536_000)(seconds(3600, 'seconds from 1 to 31536000')),
  SESSION_ABSOLUTE_SECONDS: integer(1, 31_536_000)(seconds(86_400, 'seconds from 1 to 31536000')),
  RATE_LIMIT_PER_MINUTE: integer(
    0,
    10_000_000,
  )({
    default: 600,
    desc: 'requests a minute from 0 (off) to 10000000',
    example: '600',
  }),
  ADMIN_USERNAME: username({
    default: undefined,
    desc: '3 to 32 characters of a-z 0-9 _ . -, together with ADMIN_PASSWORD',
    example: 'admin',
  }),
  ADMIN_PASSWORD: password({
    default: undefined,
    desc: '15 to 128 characters, together with ADMIN_USERNAME',
    example: 'a long phrase of your own',
  }),
  TRUST_PROXY: list(isNetwork)({
    default: [],
    desc: 'addresses or networks of proxies, separated by commas',
    example: '10.0.0.0/8,127.0.0.1',
  }),
  SHUTDOWN_GRACE_SECONDS: integer(0, 600)(seconds(10, 'seconds from 0 to 600')),
  LOG_LEVEL: choice(
    'fatal',
    'error',
    'warn',
    'info',
    'debug',
    'trace',
    'silent',
  )({
    default: 'info',
    desc: 'one of fatal, error, warn, info, debug, trace, silent',
    example: 'info',
  }),
  LOG_FORMAT: choice(
    'pretty',
    'json',
  )({ default: undefined, desc: '"pretty" or "json"', example: 'json' }),
  METRICS_PORT: integer(
    1,
    65535,
  )({ default: undefined, desc: 'a port from 1 to 65535', example: '9464' }),
  OTEL_EXPORTER_OTLP_ENDPOINT: url(
    'http:',
    'https:',
  )({
    default: undefined,
    desc: 'an http:// or https:// URL of an OTLP collector',
    example: 'http://127.0.0.1:4318',
  }),
  TLS_CERT_FILE: text({
    default: undefined,
    desc: 'a PEM file, together with TLS_KEY_FILE',
    example: '/tls/tls.crt',
  }),
  TLS_KEY_FILE: text({
    default: undefined,
    desc: 'a PEM file, together with TLS_CERT_FILE',
    example: '/tls/tls.key',
  }),
};

/** The names of all variables, in the order of the documentation. */
export const VARIABLE_NAMES: readonly string[] = Object.keys(variables);

/** Variables that are given together or not at all. */
const PAIRS = [
  ['ADMIN_USERNAME', 'ADMIN_PASSWORD'],
  ['TLS_CERT_FILE', 'TLS_KEY_FILE'],
] as const;

const line = (name: string): string => {
  const { desc, example } = variables[name as keyof typeof variables] as unknown as Form;
  return `${name} must be ${desc}, for example ${name}=${example}`;
};

/**
 * Reads `env` (the process's by default); a variable set to nothing counts as not set. Values are never put into an
 * error, since some are secrets.
 * @throws ConfigError naming every variable at fault
 */
export function loadConfig(
  env: NodeJS.ProcessEnv = process.env,
  terminal = process.stdout.isTTY,
): Config {
  const given = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ''),
  );
  const faults: string[] = [];
  const read = customCleanEnv(given, variables, (clean) => clean, {
    reporter: ({ errors }: { errors: Partial<Record<string, Error>> }) => {
      for (const [name, error] of Object.entries(errors))
        if (error && !(error instanceof EnvMissingError)) faults.push(line(name));
    },
  });
  for (const [one, other] of PAIRS) {
    if ((given[one] === undefined) !== (given[other] === undefined))
      faults.push(line(given[one] === undefined ? one : other));
  }
  if (faults.length > 0) throw new ConfigError([...new Set(faults)]);

  return Object.freeze({
    host: read.HOST,
    port: read.PORT,
    databaseUrl: read.DATABASE_URL,
    databaseReplicaUrls: Object.freeze(read.DATABASE_REPLICA_URLS),
    databasePool: read.DATABASE_POOL,
    dataDir: read.DATA_DIR,
    migrations: read.MIGRATIONS,
    redisUrl: read.REDIS_URL,
    rabbitmqUrl: read.RABBITMQ_URL,
    cacheTtl: Object.freeze({
      user: read.CACHE_TTL_USERS,
      session: read.CACHE_TTL_SESSIONS,
      order: read.CACHE_TTL_ORDERS,
    }),
    cacheDegradedWrites: read.CACHE_DEGRADED_WRITES,
    sessionIdleSeconds: read.SESSION_IDLE_SECONDS,
    sessionAbsoluteSeconds: read.SESSION_ABSOLUTE_SECONDS,
    rateLimitPerMinute: read.RATE_LIMIT_PER_MINUTE,
    admin:
      read.ADMIN_USERNAME && read.ADMIN_PASSWORD
        ? Object.freeze({ username: read.ADMIN_USERNAME, password: read.ADMIN_PASSWORD })
        : undefined,
    trustProxy: Object.freeze(read.TRUST_PROXY),
    shutdownGraceSeconds: read.SHUTDOWN_GRACE_SECONDS,
    logLevel: read.LOG_LEVEL,
    logFormat: read.LOG_FORMAT ?? (terminal ? 'pretty' : 'json'),
    metricsPort: read.METRICS_PORT,
    otlpEndpoint: read.OTEL_EXPORTER_OTLP_ENDPOINT,
    tls:
      read.TLS_CERT_FILE && read.TLS_KEY_FILE
        ? Object.freeze({ certFile: read.TLS_CERT_FILE, keyFile: read.TLS_KEY_FILE })
        : undefined,
  });
}
