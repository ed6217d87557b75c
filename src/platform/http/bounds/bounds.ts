/**
 * How much one connection, caller or address may take of a process, and what the process takes at
 * all. Invariant: a bound of the few is below the bound of the many, so that nobody can use up what
 * others need (docs/adr/0021-bounds.md has the measurements).
 */

const KIB = 1_024;
const MIB = 1_024 * KIB;

/** What the requests of one caller, of one address or of the whole process may take together. */
export interface Share {
  /** Requests that have begun and whose response has not left completely. */
  readonly requests: number;
  /** Bytes of large responses that clients have not read yet. */
  readonly unreadBytes: number;
}

/** What the bodies of the requests of one address or of the whole process may take together. */
export interface UploadShare {
  /** Bytes of large bodies that were announced and have not arrived completely. */
  readonly arrivingBytes: number;
}

export interface Bounds {
  /** The whole process. */
  readonly process: Share & UploadShare & { readonly connections: number };
  /** One client network: an IPv4 address or an IPv6 /64. Not trusted proxies. */
  readonly address: Share & UploadShare & { readonly connections: number };
  /** One user. */
  readonly caller: Share & {
    /** Requests that are worked on at once. Further ones wait for these. */
    readonly workedOn: number;
    /** Of DATABASE_POOL: requests that are worked on at once are fewer when the pool is small. */
    readonly poolShare: number;
    /** Milliseconds after which a request that waits is refused. */
    readonly maxWaitMs: number;
  };
  readonly connection: {
    /** Unanswered requests of one connection, which are worked on one after the other. */
    readonly pipelined: number;
    /** Milliseconds without a byte read after which a waiting response is given up. */
    readonly stallMs: number;
    /** The same while the process ends. */
    readonly drainingStallMs: number;
  };
  /** Pipelined requests of all connections that wait for their turn. */
  readonly pipelined: number;
  readonly eventLoopDelayMs: number;
  /** Of V8's heap limit, and of the container's memory. */
  readonly memoryShare: number;
}

export const BOUNDS: Bounds = {
  process: {
    // File descriptors, and about 20 KB of kernel and process memory for each.
    connections: 10_000,
    // At 1 ms of CPU each, the last one waits 2 s: clients give up soon after.
    requests: 2_000,
    // A quarter of the heap that Node takes in 512 MB.
    unreadBytes: 64 * MIB,
    // The same. Past it, only requests with large bodies are refused.
    arrivingBytes: 64 * MIB,
  },
  address: {
    // A tenth: many users may share an address, and ten such addresses fit.
    connections: 1_000,
    // Six addresses at their bound leave room for others.
    requests: 300,
    unreadBytes: 16 * MIB,
    // 32 of the largest bodies at once.
    arrivingBytes: 8 * MIB,
  },
  caller: {
    // Below the address's. More than any page or batch of a client needs.
    requests: 250,
    // Eight pages of the largest size.
    unreadBytes: 8 * MIB,
    // Keeps one caller's work from filling the event loop and the pool of connections. A request
    // takes milliseconds, so 8 at once are a thousand a second.
    workedOn: 8,
    // The other half is for others, also when all statements of one caller wait for a locked row.
    poolShare: 0.5,
    // Clients give up soon after.
    maxWaitMs: 10_000,
  },
  connection: {
    // More than a client that pipelines has use for: answers come one after the other.
    pipelined: 25,
    // A phone that changes its network is back by then.
    stallMs: 30_000,
    // A part of the grace of a shutdown: who reads is served to the end.
    drainingStallMs: 1_000,
  },
  // About 3 KB each.
  pipelined: 2_000,
  // The mean of a second. Answers would take a multiple of this.
  eventLoopDelayMs: 500,
  // What is left is needed to finish what has begun.
  memoryShare: 0.9,
};

/**
 * Bytes of the rows of one page, as JSON. A page ends early when its rows exceed this, so that no
 * page of 100 rows of 256 KiB is built. Ordinary orders of 100 items have about 10 KiB.
 */
export const MAX_PAGE_BYTES = MIB;

/** Rows that a page reads at a time: a page of the default limit and the row after it. */
export const MAX_ROWS_PER_READ = 26;

/**
 * Injection token for `Partial<Bounds>`, which replace the service's. The service does not provide
 * it; a global module of a test may.
 */
export const BOUND_OVERRIDES = Symbol('BoundOverrides');
