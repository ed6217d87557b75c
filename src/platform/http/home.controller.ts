/** The page at `/`: links to what a person who opens the address of the service may look for. */
import { Controller, Get, Header } from '@nestjs/common';
import { RouteSettings } from './server/route-settings.decorator.js';
import { ApiExcludeController } from '@nestjs/swagger';
import { Config } from '../../config.js';
import { HTML, htmlPage } from './html-page.js';
import { Operation } from './openapi/operation.decorator.js';

interface Link {
  readonly path: string;
  readonly text: string;
}

const LINKS: readonly Link[] = [
  { path: '/docs', text: 'Swagger UI: read about every route, and try it' },
  { path: '/docs/openapi.json', text: 'the OpenAPI document, for generated clients' },
  { path: '/problems', text: 'what each error means' },
  { path: '/health/ready', text: 'whether this process can take requests' },
  { path: '/health/live', text: 'whether it is alive' },
  { path: '/health/startup', text: 'whether it has started' },
];
const METRICS: Link = { path: '/metrics', text: 'metrics for Prometheus' };

@ApiExcludeController()
@Controller()
export class HomeController {
  constructor(private readonly config: Config) {}

  @Get()
  @RouteSettings({ produces: ['text/html'] })
  @Header('Content-Type', HTML)
  @Header('Cache-Control', 'private, no-cache')
  @Operation({ allow: 'anyone', summary: 'List the pages of the service' })
  listPages(): string {
    const hasMetrics = this.config.metrics === undefined;
    const items = [...LINKS, ...(hasMetrics ? [METRICS] : [])].map(
      ({ path, text }) => `<li><a href="${path}"><code>${path}</code></a>: ${text}</li>`,
    );
    return htmlPage('Holdfast', `<h1>Holdfast</h1><ul>${items.join('')}</ul>`);
  }
}
