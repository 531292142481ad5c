import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Asks queries in transactions with Java's own producer: java Transactions.java BOOTSTRAP TOPIC CODEC,... COUNT.
 *
 * For each codec COUNT queries in each of: committed transactions, aborted ones, and one that stays open when this
 * process dies. Ids say what became of them. The open ones are written last and followed by one committed query:
 * whoever reads what is committed waits for them. With a COUNT of 0 it ends what an earlier run left open.
 */
public class Transactions {
    static final int AT_ONCE = 20;

    public static void main(String[] args) {
        String topic = args[1];
        List<String> codecs = List.of(args[2].split(","));
        int count = Integer.parseInt(args[3]);
        List<KafkaProducer<String, String>> open = new ArrayList<>();  // closing one would end its transaction
        for (String codec : codecs) {
            KafkaProducer<String, String> producer = producer(args[0], topic + "-" + codec, codec);
            for (int first = 0; first < count; first += AT_ONCE) {
                for (String fate : List.of("committed", "aborted")) {
                    producer.beginTransaction();
                    ask(producer, topic, fate + "-" + codec, first, Math.min(count, first + AT_ONCE));
                    if (fate.equals("committed")) producer.commitTransaction(); else producer.abortTransaction();
                }
            }
            open.add(producer);
        }
        if (count > 0) {
            for (int number = 0; number < codecs.size(); number++) {
                open.get(number).beginTransaction();
                ask(open.get(number), topic, "open-" + codecs.get(number), 0, count);
            }
            KafkaProducer<String, String> last = producer(args[0], topic + "-last", "none");
            last.beginTransaction();
            ask(last, topic, "committed-last", 0, 1);
            last.commitTransaction();
        }
        System.out.println("asked");
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    static KafkaProducer<String, String> producer(String bootstrap, String id, String codec) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("transactional.id", id);
        properties.put("transaction.timeout.ms", "600000");
        properties.put("compression.type", codec);
        properties.put("linger.ms", "50");
        KafkaProducer<String, String> producer =
            new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
        producer.initTransactions();
        return producer;
    }

    static void ask(KafkaProducer<String, String> producer, String topic, String name, int first, int end) {
        for (int number = first; number < end; number++) {
            String id = name + "-" + number;
            String value = "{\"id\": \"" + id + "\", \"question\": \"is " + id + " even, or is it odd?\"}";
            producer.send(new ProducerRecord<>(topic, id, value));
        }
        producer.flush();
    }
}
