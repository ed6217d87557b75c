/**
 * Usernames that nobody can register or change to: others would take their owner for the operator.
 * The name in ADMIN_USERNAME is reserved besides (users.service.ts).
 */
export const RESERVED_USERNAMES: ReadonlySet<string> = new Set([
  'admin',
  'administrator',
  'holdfast',
  'operator',
  'root',
  'security',
  'support',
  'system',
]);
