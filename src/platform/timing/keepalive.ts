/** How both sides of a connection to PostgreSQL notice that the other one is gone. */

/**
 * TCP probes of the client. Without the delay, Linux sends the first one after two hours: a NAT
 * entry is gone by then.
 */
export const CLIENT_KEEPALIVE = { keepAlive: true, keepAliveInitialDelayMillis: 10_000 } as const;

/**
 * Settings of a session that outlives requests and may hold locks. PostgreSQL ends it soon after
 * the client is gone, also when no packet says so: by TCP probes (25 s), and when no statement
 * comes, which also works through a proxy that answers the probes.
 * @param idleMs how long the client is silent at most
 */
export const longLivedSession = (idleMs: number): string => `
  SET tcp_keepalives_idle = 10;
  SET tcp_keepalives_interval = 5;
  SET tcp_keepalives_count = 3;
  SET tcp_user_timeout = 25000;
  SET idle_session_timeout = ${idleMs};
  SET idle_in_transaction_session_timeout = ${idleMs}`;
