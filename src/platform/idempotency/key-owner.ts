/** Whose keys are whose: the same key of two owners is two keys. */
import { v5 as uuidv5 } from 'uuid';

/** The namespace of networks (RFC 9562, section 5.5). The same in every release. */
const NETWORKS = '6f0e3c52-5a0b-4b7e-9d5f-2b1c8a7e4d60';

/**
 * The owner of the keys that come from a network without a session: its UUIDv5. Users have UUIDv7,
 * so the two cannot be equal.
 * @param network of networkOf (http/server/client-address.ts)
 */
export const ownerOfNetwork = (network: string): string => uuidv5(network, NETWORKS);
