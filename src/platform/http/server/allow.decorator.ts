/** `@Allow(action)`: names the row of the policy table that decides who may call a route. */
import { applyDecorators, SetMetadata } from '@nestjs/common';
import { RouteSettings } from './route-settings.decorator.js';

/** Metadata key of a route's action. The guard and the generated documentation read it. */
export const ALLOW = 'holdfast:allow';

/** @param action a row of POLICY (src/platform/access/policy.ts); any other rejects all callers */
export const Allow = (action: string): MethodDecorator =>
  applyDecorators(SetMetadata(ALLOW, action), RouteSettings({ action }));
