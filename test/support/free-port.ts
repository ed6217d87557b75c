/** Ports for servers that cannot choose one by themselves. */
import { freePort } from '../../src/platform/database/embedded/free-port.js';

export { freePort };

const MAX_ATTEMPTS = 5;

/**
 * Starts a server on a free port, and on another one when the start fails: between the choice and
 * the start another process may take the port.
 */
export async function onFreePort<T>(start: (port: number) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start(await freePort());
    } catch (error) {
      if (attempt === MAX_ATTEMPTS) throw error;
    }
  }
}
