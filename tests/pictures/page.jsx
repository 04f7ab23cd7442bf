// Draws one dashboard, given by the global `shown`, with Grafana's own components on data of a real Prometheus.
// Grafana publishes no component for the state timeline: that one is drawn here, after its manner.
import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  createTheme,
  dateTime,
  EventBusSrv,
  FieldConfigOptionsRegistry,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayName,
  getFieldDisplayValues,
  standardTransformers,
  standardTransformersRegistry,
  ThemeContext,
  toDataFrame,
  transformDataFrame,
  VizOrientation,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, PanelContextProvider, TimeSeries } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';

const { dashboard, prometheus, variables, width } = window.shown;
const theme = createTheme({ colors: { mode: 'light' } });
const context = { eventsScope: 'picture', eventBus: new EventBusSrv() };
const GAP = 8, CELL = 30;
const PROPERTIES = ['unit', 'min', 'max', 'decimals', 'color', 'thresholds', 'mappings', 'noValue', 'links'];
const minutes = { m: 1, h: 60, d: 1440 };
const now = Math.floor(Date.now() / 1000);
const seconds = 60 * parseInt(dashboard.time.from.slice(4)) * minutes[dashboard.time.from.slice(-1)];
const timeRange = { from: dateTime((now - seconds) * 1000), to: dateTime(now * 1000), raw: dashboard.time };
const filledIn = { ...variables, __from: (now - seconds) * 1000, __range: `${seconds}s`, __rate_interval: '1m' };

standardTransformersRegistry.setInit(() =>
  ['mergeTransformer', 'filterFieldsByNameTransformer', 'organizeFieldsTransformer'].map((name) => standardTransformers[name]).map((transformation) => ({
    id: transformation.id, name: transformation.name, transformation: async () => transformation, editor: () => null,
  }))
);

async function ask(target, points) {
  const query = target.expr.replace(/\$([a-z_]\w*)/g, (_, name) => filledIn[name]);
  const step = Math.max(5, Math.ceil(seconds / points));
  const asked = target.instant ? { query, time: now } : { query, start: now - seconds, end: now, step };
  const path = target.instant ? 'query' : 'query_range';
  const answer = await (await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(asked)}`)).json();
  if (answer.status !== 'success') {
    throw new Error(`${query}: ${answer.error}`);
  }
  return answer.data.result;
}

function named(target, labels) {
  const name = (target.legendFormat || '').replace(/{{\s*(\w+)\s*}}/g, (_, label) => labels[label] ?? '');
  return name || Object.values(labels).join(' ') || target.refId;
}

// Data frames as Grafana's data source for Prometheus makes them.
function frames(target, series, many) {
  if (target.format === 'table') {
    const labels = [...new Set(series.flatMap((each) => Object.keys(each.metric)))].sort();
    return [toDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: series.map((each) => each.value[0] * 1000) },
        ...labels.map((label) => ({ name: label, type: FieldType.string, values: series.map((each) => each.metric[label]) })),
        { name: many ? `Value #${target.refId}` : 'Value', type: FieldType.number, values: series.map((each) => Number(each.value[1])) },
      ],
    })];
  }
  return series.map((each) => {
    const samples = each.values ?? [each.value];
    return toDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: samples.map(([time]) => time * 1000) },
        { name: 'Value', type: FieldType.number, labels: each.metric, values: samples.map(([, value]) => Number(value)),
          config: { displayNameFromDS: named(target, each.metric) } },
      ],
    });
  });
}

function registry(fieldConfig) {
  const ids = new Set([...PROPERTIES, ...Object.keys(fieldConfig.defaults.custom ?? {}).map((key) => `custom.${key}`),
    ...fieldConfig.overrides.flatMap((override) => override.properties.map((property) => property.id))]);
  const known = new FieldConfigOptionsRegistry();
  for (const id of ids) {
    const isCustom = id.startsWith('custom.');
    known.register({ id, path: id.replace('custom.', ''), isCustom, name: id, process: (value) => value, shouldApply: () => true,
      getItemsCount: () => 0, override: () => null, editor: () => null });
  }
  return known;
}

async function load(panel) {
  const points = panel.maxDataPoints ?? 400;
  const answers = await Promise.all(panel.targets.map((target) => ask(target, points)));
  const many = panel.targets.length > 1;
  const found = panel.targets.flatMap((target, index) => frames(target, answers[index], many));
  const data = await lastValueFrom(transformDataFrame(panel.transformations, found, { interpolate: (text) => text }));
  const configured = applyFieldOverrides({ data, fieldConfig: panel.fieldConfig, replaceVariables: (text) => text, theme,
    timeZone: 'utc', fieldConfigRegistry: registry(panel.fieldConfig) });
  cacheFieldDisplayNames(configured);
  return configured;
}

function valuesOf(panel, data) {
  return getFieldDisplayValues({ data, fieldConfig: { defaults: panel.fieldConfig.defaults, overrides: [] },
    reduceOptions: panel.options.reduceOptions, replaceVariables: (text) => text, theme, timeZone: 'utc' });
}

function Stat({ panel, data, width, height }) {
  const values = valuesOf(panel, data);
  const each = (width - GAP * (values.length - 1)) / values.length;
  return <div style={{ display: 'flex', gap: GAP }}>{values.map(({ display }, index) => (
    <BigValue key={index} value={{ ...display, title: values.length > 1 || panel.options.textMode === 'name' ? display.title : undefined }}
      width={each} height={height} theme={theme} colorMode={panel.options.colorMode} graphMode="none" justifyMode="auto"
      textMode={panel.options.textMode} count={values.length} alignmentFactors={{ title: display.title ?? '', text: display.text }} />))}</div>;
}

function Bars({ panel, data, width, height }) {
  const values = valuesOf(panel, data);
  const each = Math.min(28, Math.floor(height / values.length));
  const title = values.reduce((longest, { display }) => ((display.title ?? '').length > longest.length ? display.title : longest), '');
  const text = values.reduce((longest, { display }) => (display.text.length > longest.length ? display.text : longest), '');
  return <div>{values.map(({ display, field }, index) => (
    <BarGauge key={index} value={display} field={field} display={field.display} width={width} height={each - 6} itemSpacing={6} theme={theme}
      orientation={VizOrientation.Horizontal} displayMode={panel.options.displayMode} valueDisplayMode="text" namePlacement="left"
      showUnfilled text={panel.options.text}
      alignmentFactors={{ title, text, prefix: '', suffix: display.suffix ?? '' }} />))}</div>;
}

function Timeline({ data, width, height }) {
  const rows = data.map((frame) => ({ name: getFieldDisplayName(frame.fields[1], frame, data), time: frame.fields[0].values, field: frame.fields[1] }))
    .sort((one, other) => one.name.localeCompare(other.name));
  const left = Math.min(0.5 * width, 14 + 7 * Math.max(...rows.map(({ name }) => name.length), 0));
  const bottom = 46;
  const step = (height - bottom) / rows.length;
  const at = (time) => left + ((width - left - 8) * (time - timeRange.from.valueOf())) / (seconds * 1000);
  const legend = new Map();
  const bars = rows.flatMap(({ time, field }, line) => {
    const display = field.display ?? getDisplayProcessor({ field, theme });
    // What is missing for as long as several scrapes is a gap.
    const gap = Math.min(...time.slice(1).map((value, index) => value - time[index]), 60_000) * 1.5;
    const spells = [];
    field.values.forEach((value, index) => {
      const last = spells[spells.length - 1];
      if (last && last.value === value && time[index] - last.until <= gap) {
        last.until = time[index];
      } else {
        if (last && time[index] - last.until <= gap) {
          last.until = time[index];
        }
        spells.push({ value, since: time[index], until: time[index] });
      }
    });
    return spells.map(({ value, since, until }, index) => {
      const { text, color } = display(value);
      legend.set(text, color);
      return <rect key={`${line} ${index}`} x={at(since)} width={Math.max(1, at(until) - at(since))} y={line * step + step * 0.1}
        height={step * 0.8} fill={color} fillOpacity={0.8} />;
    });
  });
  const pace = [60, 120, 300, 600, 1800, 3600].find((each) => (seconds / each) * 70 < width - left) ?? 7200;
  const ticks = [];
  for (let tick = Math.ceil((now - seconds) / pace) * pace; tick < now; tick += pace) {
    ticks.push(tick);
  }
  const small = { fontFamily: theme.typography.fontFamily, fontSize: 12, fill: theme.colors.text.primary };
  return <svg width={width} height={height}>
    {ticks.map((tick) => <g key={tick}>
      <line x1={at(tick * 1000)} x2={at(tick * 1000)} y1={0} y2={height - bottom} stroke={theme.colors.border.weak} />
      <text x={at(tick * 1000)} y={height - bottom + 16} textAnchor="middle" {...small}>{dateTime(tick * 1000).utc().format('HH:mm')}</text>
    </g>)}
    {bars}
    {rows.map(({ name }, line) => <text key={name} x={left - 8} y={line * step + step / 2 + 4} textAnchor="end" {...small}>{name}</text>)}
    {[...legend].map(([text, color], index) => <g key={text} transform={`translate(${left + index * 130}, ${height - 14})`}>
      <rect y={-5} width={14} height={4} rx={2} fill={color} /><text x={20} {...small}>{text}</text></g>)}
  </svg>;
}

function Drawn({ panel, data, width, height }) {
  if (panel.type !== 'stat' && !data.some((frame) => frame.length > 0)) {
    return <div style={{ textAlign: 'center', paddingTop: height / 2 - 12 }}>{panel.fieldConfig.defaults.noValue ?? 'No data'}</div>;
  }
  const frame = { panel, data, width, height };
  switch (panel.type) {
    case 'stat': return <Stat {...frame} />;
    case 'bargauge': return <Bars {...frame} />;
    case 'state-timeline': return <Timeline {...frame} />;
    case 'table': return <TableNG data={data[0]} width={width} height={height} sortBy={panel.options.sortBy} cellHeight="sm"
      fieldConfig={panel.fieldConfig} noHeader={false} structureRev={1} timeRange={timeRange} />;
    case 'timeseries': return <TimeSeries frames={data} structureRev={1} width={width} height={height} timeRange={timeRange} timeZone="utc"
      legend={panel.options.legend} options={panel.options} />;
    default: throw new Error(panel.type);
  }
}

function Dashboard({ loaded }) {
  const column = (width - GAP) / 24;
  const bottom = Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => y + h));
  return <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ padding: `14px ${GAP}px 12px ${GAP}px`, display: 'flex', gap: 16, alignItems: 'baseline' }}>
      <span style={{ fontSize: 20, fontWeight: 500 }}>{dashboard.title}</span>
      {dashboard.templating.list.filter(({ type }) => type === 'query').map(({ name, label }) => <span key={name} style={{ color: theme.colors.text.secondary }}>
        {label} <b style={{ color: theme.colors.text.primary, fontWeight: 500 }}>{variables[name] === '.*' ? 'All' : variables[name]}</b></span>)}
    </div>
    <div style={{ position: 'relative', height: bottom * (CELL + GAP) }}>{loaded.map(({ panel, data }) => {
      const { x, y, w, h } = panel.gridPos;
      const place = { position: 'absolute', left: GAP + x * column, top: y * (CELL + GAP) };
      if (panel.type === 'row') {
        return <div key={panel.id} style={{ ...place, fontSize: 16, fontWeight: 500, lineHeight: `${CELL}px` }}>⌄ {panel.title}</div>;
      }
      return <div key={panel.id} style={place}>
        <PanelChrome title={panel.title} width={w * column - GAP} height={h * (CELL + GAP) - GAP} padding="sm">
          {(innerWidth, innerHeight) => <PanelContextProvider value={context}>
            <Drawn panel={panel} data={data} width={innerWidth} height={innerHeight} /></PanelContextProvider>}
        </PanelChrome></div>;
    })}</div>
  </ThemeContext.Provider>;
}

async function draw() {
  const loaded = await Promise.all(dashboard.panels.map(async (panel) => ({ panel, data: panel.type === 'row' ? [] : await load(panel) })));
  document.body.style.cssText = `margin: 0; width: ${width}px; background: ${theme.colors.background.canvas}; color: ${theme.colors.text.primary};`
    + `font: ${theme.typography.body.fontSize} ${theme.typography.fontFamily};`;
  const root = document.createElement('div');
  document.body.append(root);
  createRoot(root).render(<Dashboard loaded={loaded} />);
}
draw().catch((error) => { document.title = `failed: ${error.stack}`; }).then(() => { document.title ||= 'drawn'; });
