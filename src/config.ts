/**
 * Reads and validates every environment variable at startup: only here, and once. A wrong value
 * stops the service with a line that names the variable, its form and an example.
 * config.spec.ts compares this file with .env.example.
 */
import { customCleanEnv, makeExactValidator, type RequiredValidatorSpec } from 'envalid';
import {
  file,
  type Form,
  integer,
  isHost,
  isNetwork,
  isOrigin,
  isPassword,
  isPostgresUrl,
  isRedisUrl,
  isUsername,
  listOf,
  type Listener,
  LISTENER,
  MAX_PORT,
  oneOf,
  text,
  url,
} from './config-forms.js';

/** The configuration, frozen. Injectable: `constructor(private readonly config: Config)`. */
export abstract class Config {
  abstract readonly host: string;
  /** 0: any free port, printed at startup. */
  abstract readonly port: number;
  /** Absent: an embedded PostgreSQL under {@link dataDir}. */
  abstract readonly databaseUrl: string | undefined;
  abstract readonly databaseReplicaUrls: readonly string[];
  /** Connections of one process to the primary. */
  abstract readonly databasePool: number;
  abstract readonly dataDir: string;
  abstract readonly migrations: 'auto' | 'manual';
  /** Absent: the cache protocol runs in this process's memory. */
  abstract readonly redisUrl: string | undefined;
  /** Absent: events stay in the outbox, for {@link outboxRetentionDays}. */
  abstract readonly rabbitmqUrl: string | undefined;
  /** Without a broker: days after which events are deleted; 0 keeps them. */
  abstract readonly outboxRetentionDays: number;
  /** Seconds until a cached entry expires, by entity name. */
  abstract readonly cacheTtl: Readonly<Record<'user' | 'session' | 'order', number>>;
  abstract readonly cacheDegradedWrites: 'wait' | 'reject';
  abstract readonly cacheNear: readonly string[];
  abstract readonly sessionIdleSeconds: number;
  abstract readonly sessionAbsoluteSeconds: number;
  /** 0 turns the limits off. */
  abstract readonly rateLimitPerMinute: number;
  abstract readonly admin: { readonly username: string; readonly password: string } | undefined;
  /** Addresses and networks of the proxies whose X-Forwarded-* headers are trusted. */
  abstract readonly trustProxy: readonly string[];
  /** Origins of web pages that may call the API. */
  abstract readonly corsOrigins: readonly string[];
  abstract readonly shutdownGraceSeconds: number;
  abstract readonly logLevel: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';
  abstract readonly logFormat: 'pretty' | 'json';
  /** Where /metrics is served instead of on the port of the API. */
  abstract readonly metrics: Listener | undefined;
  abstract readonly otlpEndpoint: string | undefined;
  abstract readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
}

/** The service cannot start with this environment. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';

  /** @param lines one for each wrong variable, without values: some are secrets */
  constructor(readonly lines: readonly string[]) {
    super(lines.join('\n'));
  }
}

/** The entities that may have near caches, by their names in `@Cached`. */
const NEAR_ENTITIES: ReadonlySet<string> = new Set(['session', 'user', 'order']);

const TTL = integer('seconds', 1, 604_800);
const SESSION_SECONDS = integer('seconds', 1, 31_536_000);
const REDIS_URL_FORM =
  'a redis://host:port/db, redis+sentinel://host:port,host:port/master or ' +
  'redis+cluster://host:port,host:port URL (rediss for TLS)';

/** @param fallback the value when the variable is not set */
function variable<T, D extends T | undefined>(form: Form<T>, fallback: D, example: string) {
  const validator = makeExactValidator<T | D>((value) => {
    const parsed = form.parse(value);
    if (parsed === undefined) throw new Error('wrong form');
    return parsed;
  });
  const spec = { default: fallback, desc: form.description, example };
  return validator(spec as never) as RequiredValidatorSpec<T | D>;
}

/** Name → form, default, example. In the order of .env.example. */
const VARIABLES = {
  HOST: variable(text('a host name or an IP address', isHost), '127.0.0.1', '0.0.0.0'),
  PORT: variable(integer('a port', 0, MAX_PORT, ', 0 for any free one'), 3_000, '3000'),
  METRICS_PORT: variable(LISTENER, undefined, '9464'),

  DATABASE_URL: variable(
    text('a postgres:// URL of the primary', isPostgresUrl),
    undefined,
    'postgres://user:password@127.0.0.1:5432/holdfast',
  ),
  DATABASE_REPLICA_URLS: variable(
    listOf('postgres:// URLs of replicas', isPostgresUrl),
    [],
    'postgres://user:password@replica-1:5432/holdfast',
  ),
  DATABASE_POOL: variable(integer('a whole number', 2, 500), 10, '10'),
  DATA_DIR: variable(file('a folder for the embedded PostgreSQL'), '.data', '.data'),
  MIGRATIONS: variable(oneOf('auto', 'manual'), 'auto', 'auto'),
  REDIS_URL: variable(text(REDIS_URL_FORM, isRedisUrl), undefined, 'redis://127.0.0.1:6379'),
  RABBITMQ_URL: variable(
    url('an amqp:// or amqps:// URL', 'amqp:', 'amqps:'),
    undefined,
    'amqp://guest:guest@127.0.0.1:5672',
  ),
  OUTBOX_RETENTION_DAYS: variable(integer('days', 0, 3_650, ', 0 to keep every event'), 30, '30'),

  CACHE_TTL_USERS: variable(TTL, 3_600, '3600'),
  CACHE_TTL_SESSIONS: variable(TTL, 3_600, '3600'),
  CACHE_TTL_ORDERS: variable(TTL, 1_800, '1800'),
  CACHE_DEGRADED_WRITES: variable(oneOf('wait', 'reject'), 'wait', 'wait'),
  CACHE_NEAR: variable(
    listOf('entities: session, user, order', (name) => NEAR_ENTITIES.has(name)),
    [],
    'session,user',
  ),

  SESSION_IDLE_SECONDS: variable(SESSION_SECONDS, 3_600, '3600'),
  SESSION_ABSOLUTE_SECONDS: variable(SESSION_SECONDS, 86_400, '86400'),
  RATE_LIMIT_PER_MINUTE: variable(
    integer('requests per minute', 0, 10_000_000, ', 0 for no limit'),
    600,
    '600',
  ),
  ADMIN_USERNAME: variable(
    text('3 to 32 characters of a-z 0-9 _ . -', isUsername),
    undefined,
    'admin',
  ),
  ADMIN_PASSWORD: variable(
    text('15 to 128 characters', isPassword),
    undefined,
    'a long phrase of your own',
  ),
  TRUST_PROXY: variable(
    listOf('addresses or networks of proxies', isNetwork),
    [],
    '10.0.0.0/8,127.0.0.1',
  ),
  CORS_ORIGINS: variable(
    listOf('origins of web pages', isOrigin),
    [],
    'https://app.example,http://localhost:5173',
  ),
  SHUTDOWN_GRACE_SECONDS: variable(integer('seconds', 0, 600), 10, '10'),

  LOG_LEVEL: variable(
    oneOf('fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'),
    'info',
    'info',
  ),
  LOG_FORMAT: variable(oneOf('pretty', 'json'), undefined, 'json'),
  OTEL_EXPORTER_OTLP_ENDPOINT: variable(
    url('an http:// or https:// URL of an OTLP collector', 'http:', 'https:'),
    undefined,
    'http://127.0.0.1:4318',
  ),
  TLS_CERT_FILE: variable(file('a PEM file'), undefined, '/tls/tls.crt'),
  TLS_KEY_FILE: variable(file('a PEM file'), undefined, '/tls/tls.key'),
};

type VariableName = keyof typeof VARIABLES;

export const VARIABLE_NAMES: readonly string[] = Object.keys(VARIABLES);

/** Variables that are set together or not at all. */
const PAIRS: readonly (readonly [VariableName, VariableName])[] = [
  ['ADMIN_USERNAME', 'ADMIN_PASSWORD'],
  ['TLS_CERT_FILE', 'TLS_KEY_FILE'],
];

/**
 * Reads the environment. A variable that is set to nothing counts as not set.
 * @param isTerminal whether logs go to a terminal: the default of LOG_FORMAT depends on it
 * @throws ConfigError with all wrong variables
 */
export function loadConfig(
  env: NodeJS.ProcessEnv = process.env,
  isTerminal = process.stdout.isTTY,
): Config {
  const set = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ''),
  );
  const lines: string[] = [];
  const values = customCleanEnv(set, VARIABLES, (cleaned) => cleaned, {
    reporter: ({ errors }: { errors: object }) => {
      for (const name of Object.keys(errors)) lines.push(explainWrong(name as VariableName));
    },
  });
  for (const [first, second] of PAIRS) {
    const isFirstSet = first in set;
    if (isFirstSet === second in set) continue;
    lines.push(isFirstSet ? explainMissing(second, first) : explainMissing(first, second));
  }
  if (lines.length > 0) throw new ConfigError(lines);

  const { ADMIN_USERNAME: username, ADMIN_PASSWORD: password } = values;
  const { TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile } = values;
  return Object.freeze({
    host: values.HOST,
    port: values.PORT,
    databaseUrl: values.DATABASE_URL,
    databaseReplicaUrls: Object.freeze(values.DATABASE_REPLICA_URLS),
    databasePool: values.DATABASE_POOL,
    dataDir: values.DATA_DIR,
    migrations: values.MIGRATIONS,
    redisUrl: values.REDIS_URL,
    rabbitmqUrl: values.RABBITMQ_URL,
    outboxRetentionDays: values.OUTBOX_RETENTION_DAYS,
    cacheTtl: Object.freeze({
      user: values.CACHE_TTL_USERS,
      session: values.CACHE_TTL_SESSIONS,
      order: values.CACHE_TTL_ORDERS,
    }),
    cacheDegradedWrites: values.CACHE_DEGRADED_WRITES,
    cacheNear: Object.freeze(values.CACHE_NEAR),
    sessionIdleSeconds: values.SESSION_IDLE_SECONDS,
    sessionAbsoluteSeconds: values.SESSION_ABSOLUTE_SECONDS,
    rateLimitPerMinute: values.RATE_LIMIT_PER_MINUTE,
    admin: username && password ? Object.freeze({ username, password }) : undefined,
    trustProxy: Object.freeze(values.TRUST_PROXY),
    corsOrigins: Object.freeze(values.CORS_ORIGINS),
    shutdownGraceSeconds: values.SHUTDOWN_GRACE_SECONDS,
    logLevel: values.LOG_LEVEL,
    logFormat: values.LOG_FORMAT ?? (isTerminal ? 'pretty' : 'json'),
    metrics: values.METRICS_PORT && Object.freeze(values.METRICS_PORT),
    otlpEndpoint: values.OTEL_EXPORTER_OTLP_ENDPOINT,
    tls: certFile && keyFile ? Object.freeze({ certFile, keyFile }) : undefined,
  });
}

function explainWrong(name: VariableName): string {
  const { desc, example } = VARIABLES[name];
  return `${name} must be ${desc}, for example ${name}=${example}`;
}

function explainMissing(name: VariableName, other: VariableName): string {
  const { desc, example } = VARIABLES[name];
  return `${name} is required with ${other}. It must be ${desc}, for example ${name}=${example}`;
}
