/**
 * One thread that hashes, at a lower priority than the threads that answer (passwords.ts). A password comes in and a hash or a
 * verdict goes out; nothing is kept.
 */
import { hashSync, verifySync } from '@node-rs/argon2';

/** @param {{ password: string, hash?: string, parameters?: import('@node-rs/argon2').Options }} task */
export default ({ password, hash, parameters }) =>
  hash === undefined ? hashSync(password, parameters) : verifySync(hash, password);
