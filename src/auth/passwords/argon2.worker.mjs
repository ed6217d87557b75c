/**
 * One hashing thread of passwords.service.ts. A task with a `hash` is verified, a task without one
 * is hashed. The thread keeps no state.
 */
import { hashSync, verifySync } from '@node-rs/argon2';

/**
 * @param {{ password: string, hash?: string, parameters?: import('@node-rs/argon2').Options }} task
 * @returns {string | boolean} the hash as a PHC string, or whether the password is correct
 */
export default ({ password, hash, parameters }) =>
  hash === undefined ? hashSync(password, parameters) : verifySync(hash, password);
