/** The one way to wait for a promise with a bound. The work itself goes on; only the wait ends. */

/** The work took longer than its deadline. Its outcome is unknown. */
export class DeadlineExceededError extends Error {
  override readonly name = 'DeadlineExceededError';
}

/**
 * Settles as `work` does, or rejects after `ms`.
 * @param ms milliseconds
 * @param what names the work in the message, e.g. `RabbitMQ connect`
 * @throws DeadlineExceededError `<what> did not finish within <ms> ms`; whatever `work` throws
 */
export async function withDeadline<T>(ms: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const expiry = new Promise<never>((_, reject) => {
    const fail = (): void =>
      reject(new DeadlineExceededError(`${what} did not finish within ${ms} ms`));
    // setImmediate: after a stall of this process, an answer that waits in a socket is read first.
    timer = setTimeout(() => setImmediate(fail), ms);
  });
  try {
    return await Promise.race([work, expiry]);
  } finally {
    clearTimeout(timer);
  }
}
