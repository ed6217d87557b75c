/**
 * The router decodes paths, so `/%6Detrics` would reach `/metrics`. A proxy that has a rule for the
 * raw path would not see it. So the parts of a route that are not parameters answer only to their
 * literal text.
 */

/**
 * Whether a path spells a route's own text as the route does.
 * @param pattern of the route that the router found, e.g. `/v1/orders/:id/pay`
 */
export function isLiteral(pattern: string, path: string): boolean {
  const segments = path.split('/');
  return pattern.split('/').every((part, index) => {
    const isVariable = part.startsWith(':') || part.includes('*');
    return isVariable || part === segments[index];
  });
}
