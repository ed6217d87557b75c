/**
 * One thread of passwords.service.ts: hashes and verifies passwords, and estimates how hard they
 * are to guess. The thread keeps no state but the estimator, loaded at the first estimate.
 */
import { hashSync, verifySync } from '@node-rs/argon2';

/**
 * @param {{
 *   password?: string,
 *   hash?: string,
 *   parameters?: import('@node-rs/argon2').Options,
 *   texts?: readonly string[],
 *   words?: readonly string[],
 * }} task with `texts` an estimate, with `hash` a verification, else a new hash
 * @returns {Promise<string | boolean | object[]>} the hash as a PHC string, whether the password is
 *   correct, or an estimate for each text
 */
export default async ({ password = '', hash, parameters, texts, words = [] }) => {
  if (texts !== undefined) {
    // Its dictionaries take 0.1 s and tens of megabytes: processes that check nothing load nothing.
    const { estimate } = await import('./password-estimates.mjs');
    return texts.map((text) => estimate(text, words));
  }
  return hash === undefined ? hashSync(password, parameters) : verifySync(hash, password);
};
