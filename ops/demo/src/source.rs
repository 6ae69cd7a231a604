//! The data: nycflights13 in memory, cut into hours.

use crate::error::{Context, Result, failed};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::take_record_batch;
use arrow::compute::{concat_batches, filter_record_batch, is_not_null, sort_to_indices};
use arrow::datatypes::TimestampMillisecondType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The column by which rows belong to an hour.
pub(crate) const HOUR_COLUMN: &str = "time_hour";

/// Null in the flights that never left.
const DEPARTURE_COLUMN: &str = "dep_time";

/// One hour: one batch, of one or two tables.
#[derive(Debug, Clone)]
pub(crate) struct Hour {
    /// Its start, milliseconds since the epoch.
    pub(crate) start_ms: i64,
    /// The batch's name, `hour-2013010106`.
    pub(crate) name: String,
    /// Its rows in the sorted flights.
    pub(crate) flights: Range<usize>,
    /// Its rows in the sorted weather.
    pub(crate) weather: Range<usize>,
    /// How many of its flights were cancelled.
    pub(crate) cancelled: usize,
}

/// The source of every row.
#[derive(Debug)]
pub(crate) struct Source {
    dir: PathBuf,
    flights: RecordBatch,
    weather: RecordBatch,
    /// Every plane.
    pub(crate) planes: RecordBatch,
    /// Every hour, oldest first.
    pub(crate) hours: Vec<Hour>,
    by_name: HashMap<String, usize>,
}

impl Source {
    /// Reads the Parquet files in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let flights = sorted_by_hour(&read_parquet(&dir.join("flights.parquet"))?)?;
        let weather = sorted_by_hour(&read_parquet(&dir.join("weather.parquet"))?)?;
        let planes = read_parquet(&dir.join("planes.parquet"))?;
        let hours = hours_of(&flights, &weather)?;
        let by_name = hours
            .iter()
            .enumerate()
            .map(|(i, h)| (h.name.clone(), i))
            .collect();
        Ok(Self {
            dir: dir.to_path_buf(),
            flights,
            weather,
            planes,
            hours,
            by_name,
        })
    }

    /// The file of a table.
    pub(crate) fn file(&self, table: &str) -> String {
        self.dir
            .join(format!("{table}.parquet"))
            .display()
            .to_string()
    }

    /// The hour of a batch's name.
    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The flights of one hour.
    pub(crate) fn flights_of(&self, hour: &Hour) -> RecordBatch {
        self.flights.slice(hour.flights.start, hour.flights.len())
    }

    /// The weather of one hour.
    pub(crate) fn weather_of(&self, hour: &Hour) -> RecordBatch {
        self.weather.slice(hour.weather.start, hour.weather.len())
    }

    /// The flights of the first `hours` hours that were not cancelled.
    pub(crate) fn departed(&self, hours: usize) -> Result<RecordBatch> {
        let end = self.hours[..hours]
            .iter()
            .map(|h| h.flights.end)
            .max()
            .unwrap_or(0);
        let rows = self.flights.slice(0, end);
        let column = rows.column_by_name(DEPARTURE_COLUMN);
        let Some(column) = column else {
            return failed("flights has no column dep_time");
        };
        let kept = is_not_null(column).and_then(|departed| filter_record_batch(&rows, &departed));
        kept.context(|| "cannot filter the flights".to_owned())
    }

    /// The weather of the first `hours` hours.
    pub(crate) fn observed(&self, hours: usize) -> RecordBatch {
        let end = self.hours[..hours]
            .iter()
            .map(|h| h.weather.end)
            .max()
            .unwrap_or(0);
        self.weather.slice(0, end)
    }

    /// The predicate of the cancelled flights of the first `hours` hours.
    pub(crate) fn cancelled_before(&self, hours: usize) -> Result<String> {
        let end = self.hours[..hours]
            .last()
            .map_or(0, |h| h.start_ms + 3_600_000);
        let end = utc(end, "%Y-%m-%d %H:%M:%S")?;
        Ok(format!(
            "{DEPARTURE_COLUMN} IS NULL AND {HOUR_COLUMN} < timestamp '{end}'"
        ))
    }
}

/// A time in words.
pub(crate) fn utc(ms: i64, form: &str) -> Result<String> {
    let time = jiff::Timestamp::from_millisecond(ms).context(|| format!("{ms} is no time"))?;
    Ok(time.strftime(form).to_string())
}

/// Reads a whole Parquet file.
pub(crate) fn read_parquet(path: &Path) -> Result<RecordBatch> {
    let what = || format!("cannot read {}", path.display());
    let file = File::open(path).context(what)?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|b| b.build());
    let reader = reader.context(what)?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    let batches = reader.collect::<Result<Vec<_>, _>>().context(what)?;
    concat_batches(&schema, &batches).context(what)
}

fn sorted_by_hour(rows: &RecordBatch) -> Result<RecordBatch> {
    let Some(column) = rows.column_by_name(HOUR_COLUMN) else {
        return failed("the data has no column time_hour");
    };
    let order = sort_to_indices(column, None, None);
    let sorted = order.and_then(|order| take_record_batch(rows, &order));
    sorted.context(|| "cannot sort the data by hour".to_owned())
}

/// The start of each row's hour.
pub(crate) fn hours_in(rows: &RecordBatch) -> Result<&[i64]> {
    let column = rows.column_by_name(HOUR_COLUMN);
    match column.and_then(|c| c.as_primitive_opt::<TimestampMillisecondType>()) {
        Some(times) => Ok(times.values()),
        None => failed("time_hour is no timestamp[ms]"),
    }
}

fn ranges_of(rows: &RecordBatch) -> Result<BTreeMap<i64, Range<usize>>> {
    let mut ranges: BTreeMap<i64, Range<usize>> = BTreeMap::new();
    for (row, hour) in hours_in(rows)?.iter().enumerate() {
        ranges.entry(*hour).or_insert(row..row).end = row + 1;
    }
    Ok(ranges)
}

fn hours_of(flights: &RecordBatch, weather: &RecordBatch) -> Result<Vec<Hour>> {
    let (mut flown, mut observed) = (ranges_of(flights)?, ranges_of(weather)?);
    let mut starts: Vec<i64> = flown.keys().chain(observed.keys()).copied().collect();
    starts.sort_unstable();
    starts.dedup();
    let departures = flights.column_by_name(DEPARTURE_COLUMN);
    let mut hours = Vec::with_capacity(starts.len());
    for start_ms in starts {
        let flights = flown.remove(&start_ms).unwrap_or(0..0);
        let weather = observed.remove(&start_ms).unwrap_or(0..0);
        let cancelled =
            departures.map_or(0, |d| d.slice(flights.start, flights.len()).null_count());
        let name = utc(start_ms, "hour-%Y%m%d%H")?;
        hours.push(Hour {
            start_ms,
            name,
            flights,
            weather,
            cancelled,
        });
    }
    Ok(hours)
}
